"""Published files: nothing in them is run, and damaged ones are one clear error."""

import argparse
import pickle
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flow_apps.errors import CheckpointError
from flow_apps.importing import import_checkpoint, read_published
from torch import nn


class Writes:
    """An object whose unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.path, "was here")


class Evaluates(Writes):
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return eval, (f"open({str(self.path)!r}, 'w')",)


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> type[nn.Module]:
    """A module class of a program that is gone when its file is read."""
    module = types.ModuleType("lib.layers")

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    Layer.__module__, Layer.__qualname__ = "lib.layers", "Layer"
    vars(module)["Layer"] = Layer
    monkeypatch.setitem(sys.modules, "lib", types.ModuleType("lib"))
    monkeypatch.setitem(sys.modules, "lib.layers", module)
    return Layer


@pytest.mark.parametrize("legacy", [False, True])
def test_a_foreign_object_is_neither_imported_nor_run(
    tmp_path: Path, foreign: type[nn.Module], legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ema = foreign()
    vars(ema).update(shadow_params={"w": torch.full((2,), 3.0)}, decay=0.999, module=foreign())
    content = {
        "state_dict": {"w": torch.arange(2.0)},
        "args": argparse.Namespace(coeff=0.9, nblocks="16-16"),
        "ema": ema,
        "test_bpd": np.float64(3.28),
        "attack": [Writes(tmp_path / "one"), Evaluates(tmp_path / "two")],
    }
    path = saved(tmp_path / "file.pth", content, legacy=legacy)
    monkeypatch.delitem(sys.modules, "lib.layers")
    monkeypatch.delitem(sys.modules, "lib")
    found = read_published(path)
    assert "lib" not in sys.modules
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "two").exists()
    assert found.tensors["w"].tolist() == [0.0, 1.0]
    assert found.averages["w"].tolist() == [3.0, 3.0]
    assert found.options == {"coeff": 0.9, "nblocks": "16-16"}


def test_the_attack_would_have_worked(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", {"attack": Writes(tmp_path / "one")})
    torch.load(path, weights_only=False)
    assert (tmp_path / "one").exists()


def test_no_pickle_changes_what_reads_the_next(tmp_path: Path) -> None:
    """Attributes that a pickle sets on what it names are set on a stand-in."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    program = b"\x80\x02" + rebuild + b"(N}U\x08__name__U\x05worsesT0\x00\x00\x00" + b"x" * 48
    with pytest.raises(CheckpointError, match="damaged file or another one"):
        read_published(_written(tmp_path / "a.pth", program))
    assert torch.load(saved(tmp_path / "b.pth", {"w": torch.ones(1)}))["w"] == 1
    assert read_published(tmp_path / "b.pth").tensors["w"] == 1


def test_tensors_of_a_gpu_come_onto_the_cpu(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", {"w": torch.ones(2)}, legacy=True)
    content = path.read_bytes()
    assert content.count(b"X\x03\x00\x00\x00cpu") == 1
    there = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    found = read_published(_written(path, there)).tensors["w"]
    assert found.device.type == "cpu"
    assert found.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_one_error(tmp_path: Path, legacy: bool) -> None:
    path = saved(tmp_path / "glow.pt", {"w": torch.ones(64)}, legacy=legacy)
    content = path.read_bytes()
    for kept in (0, 10, len(content) // 2, len(content) - 4):
        with pytest.raises(CheckpointError, match=r"expected a checkpoint .* fetch the file again"):
            read_published(_written(tmp_path / "part.pt", content[:kept]))


def test_an_altered_file_is_one_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "glow.pt", {"w": torch.ones(64)})
    content = path.read_bytes()
    at = content.index(torch.ones(64).numpy().tobytes())
    altered = _written(path, content[:at] + b"\x01" + content[at + 1 :])
    with pytest.raises(CheckpointError, match=r"a wrong check sum of .*data/0"):
        read_published(altered)


def test_an_altered_file_of_2019_is_told_by_its_digest(tmp_path: Path) -> None:
    path = saved(tmp_path / "glow.pt", {"w": torch.ones(64)}, legacy=True)
    digest = read_published(path).sha256
    assert read_published(path, sha256=digest.upper()).sha256 == digest
    content = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"SHA-256 {digest}, got"):
        read_published(_written(path, content[:-1] + b"\x01"), sha256=digest)


def test_sizes_that_a_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"w": torch.ones(64)}, legacy=True)
    content = path.read_bytes()
    # The count of the storage is a byte there: make it one of four.
    bomb = content.replace(b"cpuq\x06K@", b"cpuq\x06J\xff\xff\xff\x7f", 1)
    assert bomb != content
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_published(_written(path, bomb))
    with pytest.raises(CheckpointError, match="at most 10 bytes"):
        read_published(path, largest=10)


def test_programs_and_other_content_are_refused(tmp_path: Path) -> None:
    program = tmp_path / "program.pt"
    with zipfile.ZipFile(program, "w") as archive:
        archive.writestr("program/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="a TorchScript program"):
        read_published(program)
    other = _written(tmp_path / "other.pt", pickle.dumps([1]))
    with pytest.raises(CheckpointError, match="expected a checkpoint"):
        read_published(other)
    with pytest.raises(CheckpointError, match="a dictionary of tensors, got list"):
        read_published(saved(tmp_path / "list.pt", [1]))
    with pytest.raises(CheckpointError, match="a readable file"):
        read_published(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="names of a known layout"):
        import_checkpoint(saved(tmp_path / "w.pt", {"w": torch.ones(1)}), tmp_path / "out")


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    """A file of `torch.save`, in the format of 2019 or of today."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the class of a test has no source
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
