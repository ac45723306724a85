"""Sets of images and the files of the MNIST family, written by the tests."""

import errno
import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flow_data import DataError, ImageSet, load_digits, load_fashion_mnist, load_mnist
from flow_data.images import mnist
from flow_data.images.idx import read_idx
from flow_data.images.published import Family, PublishedFile, PublishedPart
from flow_data.integrity import bytes_checksum
from sklearn import datasets

Bytes = npt.NDArray[np.uint8]


def idx(values: Bytes) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def some_images(count: int = 5) -> Bytes:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def some_labels(count: int = 5) -> Bytes:
    return np.arange(count, dtype=np.uint8) % 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The raw folder of a derived MNIST: raw images, compressed labels."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(some_images()))
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(some_labels())))
    return raw


def root(folder: Path) -> Path:
    return folder.parent.parent


def test_loads_raw_and_compressed_files(folder: Path) -> None:
    images = load_mnist(root(folder), verify="format")
    assert images.shape == (1, 28, 28)
    assert images.dimensions == 784
    assert (images.levels, images.name) == (256, "MNIST")
    assert np.array_equal(images.images[:, 0].numpy(), some_images())
    assert images.labels.tolist() == [0, 1, 2, 3, 4]


def test_the_uncompressed_file_is_preferred(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"junk")
    assert len(load_mnist(str(root(folder)), verify="format")) == 5


def test_fashion_mnist_has_its_own_folder(folder: Path) -> None:
    folder.parent.rename(root(folder) / "FashionMNIST")
    images = load_fashion_mnist(root(folder), verify="format")
    assert (len(images), images.name) == (5, "FashionMNIST")


def test_other_data_is_refused_unless_asked_for(folder: Path) -> None:
    with pytest.raises(DataError, match=r"shape \(60000, 28, 28\), got \(5, 28, 28\).*format"):
        load_mnist(root(folder))


def test_one_changed_bit_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strict check, on a data set whose published digests are those of the test's files."""
    published = {
        "images": bytes_checksum([idx(some_images())], "md5").hexdigest,
        "labels": bytes_checksum([idx(some_labels())], "md5").hexdigest,
    }
    family = pretend(published, count=5)
    monkeypatch.setattr(mnist, "MNIST", family)
    assert len(load_mnist(root(folder))) == 5
    content = bytearray(idx(some_images()))
    content[1000] ^= 1
    (folder / "train-images-idx3-ubyte").write_bytes(bytes(content))
    with pytest.raises(DataError, match="content with md5") as caught:
        load_mnist(root(folder))
    assert caught.value.subject.endswith("train-images-idx3-ubyte")
    assert published["images"] in caught.value.expected


def pretend(digests: dict[str, str], count: int) -> Family:
    files = [
        PublishedFile("train-images-idx3-ubyte", digests["images"], "", 0),
        PublishedFile("train-labels-idx1-ubyte", digests["labels"], "", 0),
    ]
    part = PublishedPart(files[0], files[1], count)
    return Family("MNIST", (), part, part)


Change = Callable[[bytes], bytes]


def spoil(path: Path, change: Change) -> None:
    path.write_bytes(change(path.read_bytes()))


SPOILT_FILES: list[tuple[Change, str]] = [
    (lambda content: content[:-1], r"expected 3920 bytes .* got 3919, the file is truncated"),
    (lambda content: content + b"x", r"expected 3920 bytes .* got more"),
    (lambda content: content[:10], "a truncated header"),
    (lambda _: b"", "begins with nothing"),
    (lambda _: b"<html>not found</html>", "begins with 3c68746d"),
    (lambda content: bytes([0, 0, 13, 3]) + content[4:], "begins with 00000d03"),
    (lambda content: content[:4] + b"\xff" * 12 + content[16:], "at most 2147483648 bytes"),
]


@pytest.mark.parametrize(("change", "message"), SPOILT_FILES)
def test_a_spoilt_file_is_one_clear_error(folder: Path, change: Change, message: str) -> None:
    spoil(folder / "train-images-idx3-ubyte", change)
    with pytest.raises(DataError, match=message) as caught:
        load_mnist(root(folder), verify="format")
    assert "train-images-idx3-ubyte" in str(caught.value)
    assert caught.value.remedy


SPOILT_ARCHIVES: dict[str, Change] = {
    "truncated": lambda content: content[:-6],
    "header only": lambda content: content[:12],
    "wrong crc": lambda content: content[:-8] + b"\0\0\0\0" + content[-4:],
    "flipped byte": lambda content: content[:20] + bytes([content[20] ^ 255]) + content[21:],
    "not gzip": lambda _: b"plain text",
}


@pytest.mark.parametrize("kind", SPOILT_ARCHIVES)
def test_a_spoilt_archive_is_one_clear_error(folder: Path, kind: str) -> None:
    spoil(folder / "train-labels-idx1-ubyte.gz", SPOILT_ARCHIVES[kind])
    with pytest.raises(DataError, match=r"labels-idx1-ubyte\.gz: expected"):
        load_mnist(root(folder), verify="format")


def test_labels_and_images_must_be_equally_many(folder: Path) -> None:
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(some_labels(4))))
    with pytest.raises(DataError, match="expected 5 labels, got 4"):
        load_mnist(root(folder), verify="format")


def test_images_in_place_of_labels(folder: Path) -> None:
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(some_images())))
    with pytest.raises(DataError, match="in 1 dimensions"):
        load_mnist(root(folder), verify="format")


def test_missing_files_say_where_and_what(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte or .*\.gz, got neither") as caught:
        load_mnist(tmp_path, train=False)
    assert str(tmp_path) in caught.value.subject
    assert isinstance(caught.value, ValueError)


def test_a_folder_that_may_not_be_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(DataError, match="got Permission denied; get the right to read it"):
        load_mnist(root(folder))


def test_a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte").unlink()
    (folder / "train-images-idx3-ubyte").mkdir()
    with pytest.raises(DataError, match="expected a readable file"):
        load_mnist(root(folder), verify="format")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A small archive of a gigabyte of zeros is read no further than its header says."""
    path = tmp_path / "bomb.gz"
    small = idx(np.zeros(3, dtype=np.uint8))
    path.write_bytes(gzip.compress(small + bytes(50_000_000), compresslevel=1))
    with pytest.raises(DataError, match="expected 3 bytes after the header, got more"):
        read_idx(path, 1)


def test_digits_are_scikit_learn_s() -> None:
    digits = load_digits()
    values, classes = datasets.load_digits(return_X_y=True)
    assert (len(digits), digits.shape, digits.levels) == (1797, (1, 8, 8), 17)
    assert np.array_equal(digits.images.flatten(1).numpy(), np.asarray(values))
    assert np.array_equal(digits.labels.numpy(), np.asarray(classes))
    assert digits.images.dtype == torch.uint8
    assert int(digits.images.max()) == 16


def test_select_takes_images_and_labels() -> None:
    digits = load_digits()
    some = digits.select(torch.tensor([3, 1]))
    assert torch.equal(some.images, digits.images[[3, 1]])
    assert some.labels.tolist() == [3, 1]
    twos = digits.select(digits.labels == 2)
    assert set(twos.labels.tolist()) == {2}
    assert digits.to("cpu").images.shape == digits.images.shape


def test_impossible_sets_are_refused() -> None:
    images, labels = torch.full((2, 1, 2, 2), 9, dtype=torch.uint8), torch.zeros(2).long()
    assert ImageSet(images, labels, 10, "good").dimensions == 4
    with pytest.raises(ValueError, match="below 9, got 9"):
        ImageSet(images, labels, 9, "bad")
    with pytest.raises(ValueError, match="between 2 and 256 levels, got 257"):
        ImageSet(images, labels, 257, "bad")
    with pytest.raises(ValueError, match="expected 2 int64 labels"):
        ImageSet(images, labels[:1], 10, "bad")
    with pytest.raises(ValueError, match=r"expected uint8 images of shape .* got torch.float32"):
        ImageSet(images.float(), labels, 10, "bad")
    with pytest.raises(ValueError, match="expected uint8 images"):
        ImageSet(images[0], labels, 10, "bad")


def test_selections_share_memory_and_read_what_is_asked() -> None:
    digits = load_digits()
    some = digits.select(torch.tensor([5, 3, 8])).select(torch.tensor([True, False, True]))
    assert some.source is digits.source
    assert torch.equal(some.take(torch.tensor([1])), digits.images[[8]])
    assert torch.equal(some.take(slice(1)), digits.images[[5]])
    assert torch.equal(some.labels, digits.labels[[5, 8]])
    assert torch.equal(some.to("cpu").images, digits.images[[5, 8]])
    assert torch.equal(digits.select(torch.tensor([-1])).images[0], digits.images[-1])
    assert len(digits.select(torch.tensor([], dtype=torch.int64)).images) == 0
    with pytest.raises(IndexError):
        some.take(torch.tensor([2]))


def all_bytes() -> ImageSet:
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    return ImageSet(images, torch.arange(4), 256, "bytes")


@pytest.mark.parametrize("n_bits", range(1, 9))
def test_with_bits_is_floor_division(n_bits: int) -> None:
    images = all_bytes().with_bits(n_bits)
    expected = torch.arange(256) // 2 ** (8 - n_bits)
    assert torch.equal(images.images.flatten().long(), expected)
    assert (images.levels, int(images.images.max())) == (2**n_bits, 2**n_bits - 1)
    assert images.name == ("bytes" if n_bits == 8 else f"bytes-{n_bits}bit")
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert images.images.dtype == torch.uint8


def test_with_bits_leaves_the_images_alone() -> None:
    images = all_bytes()
    images.with_bits(3)
    assert torch.equal(images.images.flatten().long(), torch.arange(256))


def test_impossible_bits_are_refused() -> None:
    for n_bits in (0, -1, 9):
        with pytest.raises(ValueError, match=f"between 1 and 8 bits, got {n_bits}"):
            all_bytes().with_bits(n_bits)
    with pytest.raises(ValueError, match="with 256 levels, got 17 levels"):
        load_digits().with_bits(4)
    with pytest.raises(ValueError, match="got 32 levels"):
        all_bytes().with_bits(5).with_bits(5)
