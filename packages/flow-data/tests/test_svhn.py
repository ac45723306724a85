"""SVHN and tensors in files, made by the tests, whole and spoilt."""

import builtins
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_data import DataError, download_svhn, file_checksum, load_svhn, load_tensor_images
from flow_data.images import svhn
from scipy.io import savemat


def written(path: Path, **changes: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    labels = np.array([[1], [10], [2], [9], [10]], dtype=np.uint8)
    savemat(path, {"X": pixels, "y": labels, **changes})
    return path


def test_images_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "test_32x32.mat")
    images = load_svhn(tmp_path, verify="format")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    assert np.array_equal(images.images.numpy(), pixels.transpose(3, 2, 0, 1))
    assert images.labels.tolist() == [1, 0, 2, 9, 0]
    with pytest.raises(DataError, match="content with md5 eb5a983b"):
        load_svhn(tmp_path)
    content = file_checksum(path, "md5").hexdigest
    monkeypatch.setitem(svhn.SVHN, "test", replace(svhn.SVHN["test"], content=content))
    assert len(load_svhn(str(tmp_path))) == 5


def test_one_image_is_a_set(tmp_path: Path) -> None:
    written(
        tmp_path / "test_32x32.mat",
        X=np.zeros((32, 32, 3, 1), np.uint8),
        y=np.array([[3]], np.uint8),
    )
    assert load_svhn(tmp_path, verify="format").images.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 5))}, "other images"),
        ({"X": np.zeros((5, 32, 32, 3), np.uint8)}, "other images"),
        ({"y": np.zeros((5, 1))}, "no integer labels"),
        ({"y": np.ones((4, 1), np.uint8)}, "4 labels"),
        ({"y": np.zeros((5, 1), np.uint8)}, "labels outside 1 to 10"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    written(tmp_path / "test_32x32.mat", **changes)
    with pytest.raises(DataError, match=message):
        load_svhn(tmp_path, verify="format")


def test_missing_and_spoilt_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fetch http://ufldl\S+/train_32x32.mat into that folder"):
        load_svhn(tmp_path, "train")
    (tmp_path / "train_32x32.mat").write_text("<html>")
    with pytest.raises(DataError, match=r"expected a \.mat file with X"):
        load_svhn(tmp_path, "train", verify="format")


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "test_32x32.mat")
    given = builtins.__import__

    def without(name: str, *rest: Any) -> object:
        if name.startswith("scipy"):
            raise ImportError(f"No module named {name}")
        return given(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match="pip install scipy"):
        load_svhn(tmp_path, verify="format")


def test_downloads_keep_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "test_32x32.mat")
    with pytest.raises(DataError, match="nothing was overwritten"):
        download_svhn(tmp_path, ["test"], mirrors=())
    content = file_checksum(path, "md5").hexdigest
    monkeypatch.setitem(svhn.SVHN, "test", replace(svhn.SVHN["test"], content=content))
    download_svhn(tmp_path, ["test"], mirrors=())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_any_type(tmp_path: Path, dtype: torch.dtype, legacy: bool) -> None:
    pixels = torch.randint(256, (4, 3, 32, 32))
    path = tmp_path / "dtd.t7"
    torch.save(pixels.to(dtype), path, _use_new_zipfile_serialization=not legacy)
    images = load_tensor_images(path)
    assert torch.equal(images.images, pixels.to(torch.uint8))
    assert images.name == "dtd"


class Foreign:
    """What would run if the pickle were."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("ran",)


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = torch.randint(256, (2, 3, 4, 4)).float()
    others: dict[str, object] = {
        "a Foreign": Foreign(),
        "a dict": {"x": good},
        "scaled to": good / 255,
        "from -1": good - good.min() - 1,
        "not finite": good / 0,
        r"shape \(2, 3, 4\)": good[..., 0],
    }
    for message, content in others.items():
        torch.save(content, tmp_path / "x.t7")
        shown = "none of which was run" if "Foreign" in message else message
        with pytest.raises(DataError, match=shown):
            load_tensor_images(tmp_path / "x.t7")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "x.t7").write_bytes(b"\x04\x00\x00\x00" * 20)
    with pytest.raises(DataError, match="a tensor written by"):
        load_tensor_images(tmp_path / "x.t7")
    (tmp_path / "x.t7").write_bytes(pickle.dumps([1])[:-3])
    with pytest.raises(DataError, match="a tensor written by"):
        load_tensor_images(tmp_path / "x.t7")
    with pytest.raises(DataError, match="No such file"):
        load_tensor_images(tmp_path / "none.t7")
