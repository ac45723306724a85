import io
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.errors import CheckpointError, DiskError
from flow_apps.training import Checkpoints, load_checkpoint, save_checkpoint

STATE: dict[str, Any] = {"step": 3, "weights": {"w": torch.arange(5.0)}, "best": float("inf")}


def test_a_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    loaded = load_checkpoint(path)
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"]["w"], torch.arange(5.0))


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize("kept", [0, 10, 50, 100, 600])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_a_foreign_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        load_checkpoint(path)


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code was run')",))


def test_code_in_a_well_signed_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, {"harm": _Harmful()})
    with pytest.raises(CheckpointError, match="more than tensors") as raised:
        load_checkpoint(path)
    assert "weights_only" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.ckpt"):
        load_checkpoint(tmp_path / "nothing.ckpt")


def test_two_files_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (0, 5, 10):
        checkpoints.save(step, STATE | {"step": step})
    checkpoints.save_best(STATE)
    assert checkpoints.steps() == [10, 5]
    assert checkpoints.newest() == checkpoints.path(10)
    assert load_checkpoint(checkpoints.newest())["step"] == 10
    assert checkpoints.best.exists()


def test_a_damaged_newest_file_is_passed_over_and_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, STATE | {"step": 5})
    checkpoints.save(10, STATE)
    checkpoints.path(10).write_bytes(b"nonsense")
    step, problems = checkpoints.newest_valid()
    assert step == 5
    assert load_checkpoint(checkpoints.path(5))["step"] == 5
    assert len(problems) == 1
    checkpoints.set_aside()
    assert checkpoints.steps() == [5]
    assert (tmp_path / "step_000000010.damaged").read_bytes() == b"nonsense"


@pytest.mark.parametrize("failing", ["fsync", "write"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()

    def open_full(*_: object) -> io.BytesIO:
        return _FullFile()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr("os.fsync", refuse)
    else:
        monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OSError, match="No space left") as raised:
        save_checkpoint(path, STATE | {"step": 4})
    monkeypatch.undo()
    assert isinstance(raised.value, DiskError)
    assert str(path) in str(raised.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


class _FullFile(io.BytesIO):
    def write(self, _content: object, /) -> int:
        raise OSError(28, "No space left on device")
