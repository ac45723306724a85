"""Both variants of downsampled ImageNet, and .npz files, written by the tests."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flow_data import (
    DataError,
    ImageSet,
    batch_indices,
    batches,
    in_order,
    load_imagenet,
    load_npz_images,
    split_images,
    splits,
)
from flow_data.images import imagenet
from flow_data.images.published_imagenet import CHRABASZCZ, CHRABASZCZ_COUNTS, PIXELRNN_COUNTS
from flow_data.integrity import file_checksum
from PIL import Image

Bytes = npt.NDArray[np.uint8]


def pixels(count: int, side: int = 32, seed: int = 0) -> Bytes:
    """Images whose channels come first."""
    shape = (count, 3, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_npz(path: Path, images: Bytes, labels: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, data=images.reshape(len(images), -1), labels=np.array(labels), mean=np.zeros(4))


def write_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w") as stream:
                np.save(stream, array)


def test_an_npz_file(tmp_path: Path) -> None:
    write_npz(tmp_path / "some.npz", pixels(3, 16), [4, 0, 2])
    images = load_npz_images(str(tmp_path / "some.npz"))
    assert (images.shape, images.levels, images.name) == ((3, 16, 16), 256, "some")
    assert np.array_equal(images.images.numpy(), pixels(3, 16))
    assert (images.labels.tolist(), images.labels.dtype) == ([4, 0, 2], torch.int64)


def test_classes_may_begin_at_one(tmp_path: Path) -> None:
    write_npz(tmp_path / "some.npz", pixels(3, 4), [5, 1, 3])
    assert load_npz_images(tmp_path / "some.npz", first_label=1).labels.tolist() == [4, 0, 2]
    with pytest.raises(DataError, match="labels from 2 on, got 1; check first_label"):
        load_npz_images(tmp_path / "some.npz", first_label=2)


def test_compressed_and_small_types_of_labels(tmp_path: Path) -> None:
    data = pixels(3, 4).reshape(3, -1)
    np.savez_compressed(tmp_path / "a.npz", data=data, labels=np.array([0, 1, 255], np.uint8))
    images = load_npz_images(tmp_path / "a.npz")
    assert np.array_equal(images.images.flatten(1).numpy(), data)
    assert images.labels.tolist() == [0, 1, 255]


WRONG_ARRAYS: dict[str, tuple[dict[str, npt.NDArray[Any]], str]] = {
    "no data": ({"labels": np.zeros(2, int)}, "no item named 'data.npy'"),
    "no labels": ({"data": pixels(2).reshape(2, -1)}, "labels is not a file"),
    "floats": ({"data": np.zeros((2, 3072))}, r"float64 of shape \(2, 3072\)"),
    "not square": ({"data": np.zeros((2, 3071), np.uint8)}, r"uint8 of shape \(2, 3071\)"),
    "not flat": ({"data": pixels(2)}, r"uint8 of shape \(2, 3, 32, 32\)"),
    "no dimensions": ({"data": np.zeros((), np.uint8)}, r"uint8 of shape \(\)"),
    "nothing in it": ({"data": np.zeros((2, 0), np.uint8)}, r"uint8 of shape \(2, 0\)"),
    "few labels": (
        {"data": pixels(2).reshape(2, -1), "labels": np.zeros(1, int)},
        r"2 integer labels, got int64 of shape \(1,\)",
    ),
    "real labels": (
        {"data": pixels(2).reshape(2, -1), "labels": np.zeros(2)},
        r"2 integer labels, got float64",
    ),
}


@pytest.mark.parametrize("kind", WRONG_ARRAYS)
def test_wrong_arrays_are_one_clear_error(tmp_path: Path, kind: str) -> None:
    arrays, message = WRONG_ARRAYS[kind]
    write_arrays(tmp_path / "some.npz", arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_npz_images(tmp_path / "some.npz")
    assert "some.npz" in caught.value.subject


class Trap:
    """Fails the test if it is ever unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("key", ["data", "labels"])
def test_pickled_objects_in_an_npz_file_are_not_read(tmp_path: Path, key: str) -> None:
    objects = np.empty(2, dtype=object)
    objects[:] = [Trap(), Trap()]
    arrays = {"data": pixels(2).reshape(2, -1), "labels": np.zeros(2, int), key: objects}
    write_arrays(tmp_path / "some.npz", arrays)
    with pytest.raises(DataError, match=r"Object arrays cannot be loaded|object of shape"):
        load_npz_images(tmp_path / "some.npz")


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-100],
    "text": lambda _: b"<html>",
    "empty": lambda _: b"",
    "flipped byte": lambda content: content[:400] + bytes([content[400] ^ 255]) + content[401:],
    "other header": lambda content: content.replace(b"\x93NUMPY", b"\x93NUMPX"),
    "unknown compression": lambda content: content.replace(b"\x00\x08\x00", b"\x00\x63\x00"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_npz_file_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "some.npz"
    write_npz(path, pixels(2), [0, 1])
    if kind == "unknown compression":
        np.savez_compressed(path, data=pixels(2).reshape(2, -1), labels=np.zeros(2, int))
    path.write_bytes(SPOILT[kind](path.read_bytes()))
    with pytest.raises(DataError, match=r"some\.npz: expected a \.npz file"):
        load_npz_images(path)


def test_a_file_that_announces_more_than_it_has(tmp_path: Path) -> None:
    header = io.BytesIO()
    entry = {"descr": "|u1", "fortran_order": False, "shape": (50, 3072)}
    np.lib.format.write_array_header_1_0(header, entry)
    with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
        archive.writestr("data.npy", header.getvalue() + bytes(100))
    with pytest.raises(DataError, match="some"):
        load_npz_images(tmp_path / "some.npz")


def test_a_missing_npz_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_npz_images(tmp_path / "none.npz")


@pytest.fixture
def chrabaszcz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten files of two images and a validation file, which count as the published ones."""
    for number in range(1, 11):
        write_npz(tmp_path / f"train_data_batch_{number}.npz", pixels(2, seed=number), [1, 1000])
    write_npz(tmp_path / "val_data.npz", pixels(3, seed=99), [7, 8, 9])
    digests = {
        train: {name: file_checksum(tmp_path / name, "md5").hexdigest for name in names}
        for train, names in CHRABASZCZ.items()
    }
    monkeypatch.setattr(imagenet, "CHRABASZCZ", digests)
    monkeypatch.setattr(imagenet, "CHRABASZCZ_COUNTS", {True: 20, False: 3})
    return tmp_path


def load_chrabaszcz(root: Path, **options: Any) -> ImageSet:
    return load_imagenet(root, variant="chrabaszcz", **options)


def test_the_ten_files_of_chrabaszcz_in_order(chrabaszcz: Path) -> None:
    images = load_chrabaszcz(chrabaszcz)
    assert (len(images), images.shape, images.name) == (20, (3, 32, 32), "ImageNet32-chrabaszcz")
    whole = np.concatenate([pixels(2, seed=number) for number in range(1, 11)])
    assert np.array_equal(images.images.numpy(), whole)
    assert images.labels.tolist() == 10 * [0, 999]
    validation = load_chrabaszcz(chrabaszcz, train=False)
    assert validation.labels.tolist() == [6, 7, 8]


def test_all_files_are_needed_unless_asked_otherwise(chrabaszcz: Path) -> None:
    (chrabaszcz / "train_data_batch_3.npz").unlink()
    with pytest.raises(DataError, match=r"expected train_data_batch_3\.npz, got no such file"):
        load_chrabaszcz(chrabaszcz)
    assert len(load_chrabaszcz(chrabaszcz, verify="format")) == 18


def test_the_digest_of_every_file_is_compared(chrabaszcz: Path) -> None:
    write_npz(chrabaszcz / "train_data_batch_10.npz", pixels(2), [1, 2])
    with pytest.raises(DataError, match=r"batch_10\.npz: expected content with md5"):
        load_chrabaszcz(chrabaszcz)
    assert len(load_chrabaszcz(chrabaszcz, verify="format")) == 20


def test_the_number_of_images_is_compared_first(chrabaszcz: Path) -> None:
    write_npz(chrabaszcz / "val_data.npz", pixels(2), [1, 2])
    with pytest.raises(DataError, match="expected 3 images, got 2; check the variant"):
        load_chrabaszcz(chrabaszcz, train=False)


def test_files_of_the_other_size(chrabaszcz: Path) -> None:
    with pytest.raises(DataError, match="images of 64x64 pixels, got 32x32; ask for the size"):
        load_chrabaszcz(chrabaszcz, size=64)
    for name in CHRABASZCZ[True]:
        write_npz(chrabaszcz / name, pixels(2, side=64), [1, 2])
    assert load_chrabaszcz(chrabaszcz, size=64).name == "ImageNet64-chrabaszcz"


def test_labels_of_another_set(chrabaszcz: Path) -> None:
    write_npz(chrabaszcz / "val_data.npz", pixels(2), [1, 1001])
    with pytest.raises(DataError, match=r"labels in 1\.\.1000, got 1001"):
        load_chrabaszcz(chrabaszcz, train=False, verify="format")
    write_npz(chrabaszcz / "val_data.npz", pixels(2), [0, 1])
    with pytest.raises(DataError, match="labels from 1 on, got 0"):
        load_chrabaszcz(chrabaszcz, train=False, verify="format")


def test_published_digests_are_digests() -> None:
    digests = [digest for names in CHRABASZCZ.values() for digest in names.values()]
    assert all(len(bytes.fromhex(digest)) == 16 for digest in digests)
    assert len(set(digests)) == 11


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root where three images are all of the training part, and two of the validation part."""
    monkeypatch.setattr(imagenet, "PIXELRNN_COUNTS", {True: 3, False: 2})
    return tmp_path


@pytest.mark.parametrize("flat", [False, True])
def test_npy_files_of_pixelrnn(counted: Path, flat: bool) -> None:
    last = np.ascontiguousarray(pixels(3).transpose(0, 2, 3, 1))
    np.save(counted / "train_32x32.npy", last.reshape(3, -1) if flat else last)
    images = load_imagenet(counted)
    assert (images.shape, images.name) == ((3, 32, 32), "ImageNet32-pixelrnn")
    assert np.array_equal(images.images.numpy(), pixels(3))
    assert images.labels.tolist() == [-1, -1, -1]


def test_mapped_images_can_be_used_and_the_file_stays(counted: Path) -> None:
    path = counted / "train_32x32.npy"
    np.save(path, pixels(3).transpose(0, 2, 3, 1))
    path.chmod(0o444)
    before = path.read_bytes()
    images = load_imagenet(counted)
    assert next(batches(images, 2, seed=0)).shape == (2, 3, 32, 32)
    images.images[0] = 0
    assert path.read_bytes() == before
    assert images.with_bits(5).images.max() <= 31


def test_parts_of_a_mapped_file_stay_mapped(tmp_path: Path) -> None:
    """The training images are larger than most memories: nothing is copied but batches."""
    np.save(tmp_path / "train_32x32.npy", pixels(10).transpose(0, 2, 3, 1))
    whole = load_imagenet(tmp_path, verify="format")
    parts = split_images(whole, validation=3, test=0, seed=0)
    rows = splits(10, validation=3, test=0, seed=0)
    for part, expected in ((parts.train, rows.train), (parts.validation, rows.validation)):
        reduced = part.with_bits(5)
        assert part.source.data_ptr() == reduced.source.data_ptr() == whole.source.data_ptr()
        batch = next(batches(part, 2, seed=1))
        chosen = expected[batch_indices(len(part), 2, 0, seed=1)]
        assert np.array_equal(batch.numpy(), pixels(10)[chosen.numpy()])
        assert torch.equal(next(batches(reduced, 2, seed=1)), batch // 8)
        assert torch.equal(torch.cat(list(in_order(part, 2))), part.images)
        assert len(part.images) == len(part)


@pytest.mark.parametrize("size", [32, 64])
def test_png_folders_of_pixelrnn(counted: Path, size: Any) -> None:
    folder = counted / f"valid_{size}x{size}"
    folder.mkdir()
    for k, image in enumerate(pixels(2, size)):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{k}.png")
    images = load_imagenet(counted, size, train=False)
    assert images.name == f"ImageNet{size}-pixelrnn"
    assert np.array_equal(images.images.numpy(), pixels(2, size))


def test_png_files_of_another_size_are_named(counted: Path) -> None:
    folder = counted / "train_64x64"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(pixels(1, 32)[0].transpose(1, 2, 0)).save(folder / f"{k}.png")
    with pytest.raises(DataError, match=r"3 that are not: 0\.png \(32x32\), 1\.png"):
        load_imagenet(counted, 64)
    (folder / "0.png").unlink()
    with pytest.raises(DataError, match="train_64x64: expected 3 images, got 2"):
        load_imagenet(counted, 64)


NPY: dict[str, tuple[npt.NDArray[Any], str]] = {
    "channels first": (pixels(3), r"uint8 of shape \(3, 3, 32, 32\)"),
    "other size": (np.zeros((3, 64, 64, 3), np.uint8), r"\(3, 64, 64, 3\)"),
    "floats": (np.zeros((3, 32, 32, 3)), "got float64"),
    "objects": (np.array([None] * 3), "objects"),
    "one image": (np.zeros((32, 32, 3), np.uint8), r"got uint8 of shape \(32, 32, 3\)"),
}


@pytest.mark.parametrize("kind", NPY)
def test_wrong_npy_files_are_one_clear_error(counted: Path, kind: str) -> None:
    array, message = NPY[kind]
    np.save(counted / "train_32x32.npy", array)
    with pytest.raises(DataError, match=message):
        load_imagenet(counted, verify="format")


def test_truncated_npy_files(counted: Path) -> None:
    path = counted / "train_32x32.npy"
    np.save(path, pixels(3).transpose(0, 2, 3, 1))
    content = path.read_bytes()
    for part in (content[:-1], content[:50], b"", b"<html>" * 50):
        path.write_bytes(part)
        with pytest.raises(DataError, match=r"a whole \.npy file"):
            load_imagenet(counted)


def test_another_number_of_images(counted: Path) -> None:
    np.save(counted / "train_32x32.npy", pixels(2).transpose(0, 2, 3, 1))
    with pytest.raises(DataError, match=r'expected 3 images, got 2; .* verify="format"'):
        load_imagenet(counted)
    assert len(load_imagenet(counted, verify="format")) == 2


def test_the_other_variant_is_recognised(chrabaszcz: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"files of the other variant .*figures are not comparable"):
        load_imagenet(chrabaszcz)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(DataError, match=r"val_data\.npz, got no such file; give the right root"):
        load_chrabaszcz(other, train=False)
    (other / "valid_32x32").mkdir()
    with pytest.raises(DataError, match=r"got files of the other variant \(valid_32x32\)"):
        load_chrabaszcz(other, train=False)


def test_the_published_numbers_of_images(tmp_path: Path) -> None:
    assert PIXELRNN_COUNTS == {True: 1281149, False: 49999}
    assert CHRABASZCZ_COUNTS == {True: 1281167, False: 50000}
    with pytest.raises(DataError, match=r"train_32x32\.npy or a folder train_32x32 of PNG files"):
        load_imagenet(tmp_path)
