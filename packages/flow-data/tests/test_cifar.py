"""CIFAR files as Python 2 pickled them, assembled here opcode by opcode, and spoilt ones."""

import hashlib
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flow_data import (
    DataError,
    download_cifar10,
    download_cifar100,
    load_cifar10,
    load_cifar100,
)
from flow_data.images import cifar
from flow_data.images.published_cifar import CIFAR10, CIFAR100, CifarArchive, CifarFile

Bytes = npt.NDArray[np.uint8]

# The pickle opcodes of protocol 2 that the published files are made of.
PROTO, STOP, MARK, EMPTY_DICT, SETITEMS = b"\x80\x02", b".", b"(", b"}", b"u"
EMPTY_LIST, APPENDS, REDUCE, BUILD, TUPLE = b"]", b"e", b"R", b"b", b"t"
TUPLE2, TUPLE3, NONE, FALSE, TRUE = b"\x86", b"\x87", b"N", b"\x89", b"\x88"
RECONSTRUCT, NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def string(value: bytes) -> bytes:
    return b"T" + struct.pack("<I", len(value)) + value


def array(values: Bytes, kind: bytes = b"u1") -> bytes:
    """An array in C order unless it is contiguous in Fortran's alone."""
    fortran = not values.flags.c_contiguous
    empty = RECONSTRUCT + NDARRAY + integer(0) + b"\x85" + string(b"b") + TUPLE3 + REDUCE
    dtype = DTYPE + string(kind) + integer(0) + integer(1) + TUPLE3 + REDUCE
    state = integer(3) + string(b"|") + 3 * NONE + 2 * integer(-1) + integer(0)
    dtype += MARK + state + TUPLE + BUILD
    shape = MARK + b"".join(integer(n) for n in values.shape) + TUPLE
    content = string(values.tobytes(order="A"))
    order = TRUE if fortran else FALSE
    return empty + MARK + integer(1) + shape + dtype + order + content + TUPLE + BUILD


def integers(values: list[int]) -> bytes:
    return EMPTY_LIST + MARK + b"".join(integer(v) for v in values) + APPENDS


def pickled(entries: dict[str, bytes]) -> bytes:
    pairs = b"".join(string(key.encode()) + value for key, value in entries.items())
    return PROTO + EMPTY_DICT + MARK + pairs + SETITEMS + STOP


def pixels(count: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def batch(count: int = 4, seed: int = 0, key: str = "labels", **other: bytes) -> bytes:
    entries = {
        "batch_label": string(b"training batch \xe9"),
        key: integers([k % 10 for k in range(count)]),
        "data": array(pixels(count, seed)),
        "filenames": EMPTY_LIST + MARK + string(b"a.png") + APPENDS,
    }
    return pickled({**entries, **other})


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def write(root: Path, archive: CifarArchive) -> CifarArchive:
    """Files of that archive's names, and a record with their digests."""
    folder = root / archive.folder
    folder.mkdir(parents=True)

    def one(seed: int, file: CifarFile) -> CifarFile:
        content = batch(seed=seed, key=archive.label_key)
        (folder / file.name).write_bytes(content)
        return CifarFile(file.name, md5(content))

    train = tuple(one(k, file) for k, file in enumerate(archive.train))
    return replace(archive, train=train, test=(one(9, archive.test[0]),), meta=one(8, archive.meta))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small CIFAR-10 and CIFAR-100 that count as the published ones."""
    monkeypatch.setattr(cifar, "CIFAR10", write(tmp_path, CIFAR10))
    monkeypatch.setattr(cifar, "CIFAR100", write(tmp_path, CIFAR100))
    return tmp_path


def first(root: Path) -> Path:
    return root / "cifar-10-batches-py" / "data_batch_1"


def test_the_five_batches_in_order(root: Path) -> None:
    images = load_cifar10(root)
    assert (len(images), images.shape, images.levels, images.name) == (
        20,
        (3, 32, 32),
        256,
        "CIFAR10",
    )
    whole = np.concatenate([pixels(4, seed) for seed in range(5)])
    assert np.array_equal(images.images.flatten(1).numpy(), whole)
    assert images.labels.tolist() == 5 * [0, 1, 2, 3]
    assert images.images.is_contiguous()


def test_the_test_part_and_fine_labels(root: Path) -> None:
    assert np.array_equal(load_cifar10(root, train=False).images.flatten(1).numpy(), pixels(4, 9))
    fine = load_cifar100(str(root))
    assert (len(fine), fine.name, fine.labels.dtype) == (4, "CIFAR100", torch.int64)
    assert len(load_cifar100(root, train=False)) == 4


def test_channels_come_first_then_rows(root: Path) -> None:
    """Red of the first row, then its second row, ..., then green, as published."""
    image = load_cifar10(root).images[0]
    assert torch.equal(image[0, 0], torch.from_numpy(pixels(4)[0, :32]))
    assert torch.equal(image[1, 0], torch.from_numpy(pixels(4)[0, 1024:1056]))


def test_columns_first_arrays_mean_the_same(root: Path) -> None:
    first(root).write_bytes(batch(data=array(np.asfortranarray(pixels(4)))))
    images = load_cifar10(root, verify="format").images[:4]
    assert np.array_equal(images.flatten(1).numpy(), pixels(4))


def test_nothing_is_written(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    load_cifar10(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_data_is_refused_unless_asked_for(root: Path) -> None:
    first(root).write_bytes(batch(seed=7))
    with pytest.raises(DataError, match=r"data_batch_1: expected content with md5 .*got md5"):
        load_cifar10(root)
    assert len(load_cifar10(root, verify="format")) == 20


def test_the_digest_comes_before_the_pickle(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first(root).write_bytes(b"cos\nsystem\n.")
    monkeypatch.setattr(cifar, "read_pickle", None)
    with pytest.raises(DataError, match="content with md5"):
        load_cifar10(root)


def test_truncated_missing_and_unreadable_files_differ(root: Path) -> None:
    content = first(root).read_bytes()
    first(root).write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"the file is truncated at \d+ bytes; fetch"):
        load_cifar10(root)
    first(root).unlink()
    with pytest.raises(DataError, match=r"data_batch_1, got no such file; .*download_cifar"):
        load_cifar10(root)
    first(root).mkdir()
    with pytest.raises(DataError, match="a readable file, got Is a directory"):
        load_cifar10(root)


def test_a_file_without_read_permission(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="got Permission denied; get the right to read it"):
        load_cifar10(root)


class Malicious:
    """Makes a folder when it is unpickled by an unpickler that runs what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_malicious_pickle_does_not_run(root: Path) -> None:
    trace = root / "trace"
    first(root).write_bytes(pickle.dumps({"data": Malicious(trace)}, protocol=2))
    with pytest.raises(DataError, match=r"asks for \w+\.mkdir; do not use this file"):
        load_cifar10(root, verify="format")
    assert not trace.exists()
    pickle.loads(first(root).read_bytes())
    assert trace.exists(), "the pickle is one that runs elsewhere"


FOREIGN: dict[str, tuple[bytes, str]] = {
    "system": (PROTO + b"cos\nsystem\n" + STOP, "asks for os.system"),
    "eval": (PROTO + b"c__builtin__\neval\n" + STOP, "asks for __builtin__.eval"),
    "other numpy": (PROTO + b"cnumpy\nload\n" + STOP, "asks for numpy.load"),
    "nested name": (
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.resize\x93" + STOP,
        "asks for numpy.ndarray.resize",
    ),
    "objects": (PROTO + array(pixels(1), b"O8") + STOP, "an array of type O8"),
    "floats": (PROTO + array(pixels(1), b"f8") + STOP, "an array of type f8"),
    "untyped": (
        PROTO + RECONSTRUCT + b")" + REDUCE + MARK + 3 * NONE + 2 * FALSE + TUPLE + BUILD + STOP,
        "something else than bytes",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_a_published_file_never_asks_for(root: Path, kind: str) -> None:
    content, message = FOREIGN[kind]
    first(root).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_cifar10(root, verify="format")
    assert "nothing in it was run" in caught.value.remedy


SPOILT: dict[str, bytes] = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "truncated": batch()[:-5000],
    "a class called": PROTO + NDARRAY + b")" + REDUCE + STOP,
    "bad shape": pickled({"data": array(pixels(2)).replace(integer(3072), integer(3071))}),
    "a persistent object": PROTO + b"Pid\n" + STOP,
    "an attribute set": PROTO + DTYPE + b"}" + string(b"code") + integer(1) + b"s" + BUILD + STOP,
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_pickle_is_one_clear_error(root: Path, kind: str) -> None:
    first(root).write_bytes(SPOILT[kind])
    with pytest.raises(DataError, match=r"data_batch_1: .*a spoilt one \((.|\n)+\); fetch"):
        load_cifar10(root, verify="format")


WRONG: dict[str, tuple[bytes, str]] = {
    "a list": (PROTO + EMPTY_LIST + STOP, "dictionary .*got a list"),
    "no data": (pickled({}), "byte array .*got NoneType"),
    "text": (batch(data=string(b"text")), "byte array .*got str"),
    "an array without content": (
        batch(data=RECONSTRUCT + b")" + REDUCE),
        r"\(count, 3072\), got \(0,\)",
    ),
    "other shape": (batch(data=array(pixels(4).reshape(2, 6144))), r"got \(2, 6144\)"),
    "coarse": (batch(key="coarse_labels"), "'labels', a list .*got NoneType"),
    "large label": (batch(labels=integers([0, 1, 2, 10])), "0..9, got 10 in it"),
    "negative label": (batch(labels=integers([0, 1, 2, -1])), "got -1 in it"),
    "text label": (batch(labels=EMPTY_LIST + MARK + string(b"x") + APPENDS), "got 'x' in it"),
    "few labels": (batch(labels=integers([0, 1, 2])), "expected 4 labels, got 3"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_content_is_one_clear_error(root: Path, kind: str) -> None:
    content, message = WRONG[kind]
    first(root).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_cifar10(root, verify="format")
    assert "data_batch_1" in caught.value.subject


def test_a_file_that_is_far_too_large(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_LARGEST", 1000)
    with pytest.raises(DataError, match="at most 1000 bytes, got more"):
        load_cifar10(root)


def as_archive(root: Path, record: CifarArchive) -> CifarArchive:
    """The written folder as an archive at the place where a download leaves it."""
    with tarfile.open(root / record.archive, "w:gz") as tar:
        tar.add(root / record.folder, record.folder)
    content = (root / record.archive).read_bytes()
    return replace(
        record,
        archive_content=md5(content),
        archive_size=len(content),
        unpacked_size=1_000_000,
        mirrors=(),
    )


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with the archives of small CIFAR sets, and nothing unpacked."""
    made = tmp_path / "made"
    for name, record in (("CIFAR10", CIFAR10), ("CIFAR100", CIFAR100)):
        small = as_archive(made, write(made, record))
        monkeypatch.setattr(cifar, name, small)
    other = tmp_path / "fetched"
    other.mkdir()
    for path in made.glob("*.tar.gz"):
        path.rename(other / path.name)
    return other


def test_an_archive_is_unpacked_and_loads(fetched: Path) -> None:
    download_cifar10(fetched, mirrors=[])
    download_cifar100(fetched, mirrors=[])
    assert sorted(path.name for path in fetched.iterdir()) == [
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        "cifar-100-python",
        "cifar-100-python.tar.gz",
    ]
    assert (len(load_cifar10(fetched)), len(load_cifar100(fetched))) == (20, 4)


def test_a_present_folder_is_verified_and_kept(fetched: Path) -> None:
    download_cifar10(fetched, mirrors=[])
    (fetched / "cifar-10-python.tar.gz").unlink()
    download_cifar10(fetched, mirrors=[])
    (fetched / "cifar-10-batches-py" / "batches.meta").write_bytes(b"x")
    with pytest.raises(DataError, match=r"batches\.meta.*move .* away.*nothing was overwritten"):
        download_cifar10(fetched, mirrors=[])


def test_content_that_is_not_published_is_not_kept(
    fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (fetched / "cifar-10-python.tar.gz").read_bytes()
    wrong = replace(CIFAR10, archive_content=md5(content), archive_size=len(content))
    monkeypatch.setattr(cifar, "CIFAR10", wrong)
    with pytest.raises(DataError, match="data_batch_1: expected content with md5"):
        download_cifar10(fetched, mirrors=[])
    assert [path.name for path in fetched.glob("*10-*")] == ["cifar-10-python.tar.gz"]


def test_the_published_archives_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="170498071 bytes of md5 c58f30108f718f92721af3b95e74349a"):
        download_cifar10(tmp_path, mirrors=["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match="169001437 bytes of md5 eb9058c3a382ffc7106e4002c42a8d85"):
        download_cifar100(tmp_path, mirrors=["http://127.0.0.1:9/"])
    assert list(tmp_path.iterdir()) == []
    assert all(url.startswith("https://") for url in CIFAR10.mirrors + CIFAR100.mirrors)


def test_published_digests_are_digests() -> None:
    for record in (CIFAR10, CIFAR100):
        files = (*record.train, *record.test, record.meta)
        digests = [record.archive_content, *(file.content for file in files)]
        assert all(len(bytes.fromhex(digest)) == 16 for digest in digests)
        assert len(set(digests)) == len(digests)
