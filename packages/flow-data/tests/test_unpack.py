"""Archives that the tests write: unpacked whole and checked, or nothing is left."""

import errno
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from flow_data import DataError
from flow_data.unpack import unpack

LIMIT = 10_000


def member(name: str, size: int = 7, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size if kind == tarfile.REGTYPE else 0
    info.type = kind
    info.linkname = "elsewhere"
    return info


def write_tar(path: Path, members: list[tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(b"c" * info.size))
    return path


def accept(_: Path) -> None:
    """Nothing to check."""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "a.tar.gz", [member("data/one"), member("data/sub/two")])


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_good_archive(archive: Path, tmp_path: Path) -> None:
    checked: list[list[str]] = []
    unpack(
        archive, tmp_path / "data", limit=LIMIT, check=lambda folder: checked.append(names(folder))
    )
    assert checked == [["one", "sub", "sub/two"]]
    assert names(tmp_path) == ["a.tar.gz", "data", "data/one", "data/sub", "data/sub/two"]
    assert (tmp_path / "data" / "one").read_bytes() == b"c" * 7


def test_a_folder_that_fails_the_check_is_not_there(archive: Path, tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise DataError(folder, "this", "that", "do something")

    with pytest.raises(DataError, match="expected this, got that"):
        unpack(archive, tmp_path / "data", limit=LIMIT, check=refuse)
    assert names(tmp_path) == ["a.tar.gz"]


BAD_MEMBERS: list[tuple[tarfile.TarInfo, str]] = [
    (member("../outside"), "outside the destination"),
    (member("data/../../outside"), "outside the destination"),
    (member("data/link", kind=tarfile.SYMTYPE), "got data/link, which is neither"),
    (member("data/hard", kind=tarfile.LNKTYPE), "got data/hard, which is neither"),
    (member("data/device", kind=tarfile.CHRTYPE), "got data/device, which is neither"),
    (member("data/large", LIMIT), "at most 10000 bytes in 10000 files, got more"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_MEMBERS, ids=range(len(BAD_MEMBERS)))
def test_a_harmful_archive_leaves_nothing(
    tmp_path: Path, bad: tarfile.TarInfo, message: str
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    archive = write_tar(inner / "a.tar.gz", [member("data/one"), bad, member("data/two")])
    with pytest.raises(DataError, match=message):
        unpack(archive, inner / "data", limit=LIMIT, check=accept)
    assert names(tmp_path) == ["inner", "inner/a.tar.gz"]


def test_absolute_names_stay_inside(tmp_path: Path) -> None:
    target = tmp_path / "outside"
    archive = write_tar(tmp_path / "a.tar.gz", [member(str(target)), member("data/one")])
    unpack(archive, tmp_path / "data", limit=LIMIT, check=accept)
    assert names(tmp_path) == ["a.tar.gz", "data", "data/one"]


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "not a tar": lambda _: b"<html>not found</html>" * 100,
    "empty": lambda _: b"",
    "flipped byte": lambda content: content[:40] + bytes([content[40] ^ 255]) + content[41:],
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_archive_leaves_nothing(archive: Path, tmp_path: Path, kind: str) -> None:
    archive.write_bytes(SPOILT[kind](archive.read_bytes()))
    with pytest.raises(DataError, match="a whole and harmless tar archive"):
        unpack(archive, tmp_path / "data", limit=LIMIT, check=accept)
    assert names(tmp_path) == ["a.tar.gz"]


def test_an_archive_of_something_else(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder other, got none"):
        unpack(archive, tmp_path / "other", limit=LIMIT, check=accept)
    assert names(tmp_path) == ["a.tar.gz"]


def test_a_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such file .*; .*fetch the data first"):
        unpack(tmp_path / "none", tmp_path / "data", limit=LIMIT, check=accept)


def test_room_is_looked_for_first(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def little(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=5)

    monkeypatch.setattr(shutil, "disk_usage", little)
    with pytest.raises(DataError, match="expected 10000 free bytes, got 5; free some space"):
        unpack(archive, tmp_path / "data", limit=LIMIT, check=accept)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EROFS, "Read-only file system; get the right to write there"),
        (errno.EACCES, "Permission denied; get the right to write there"),
    ],
)
def test_a_disk_that_refuses(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(DataError, match=message):
        unpack(archive, tmp_path / "data", limit=LIMIT, check=accept)


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile, "copyfileobj", full)
    with pytest.raises(DataError, match="No space left on device; free some space"):
        unpack(archive, tmp_path / "data", limit=LIMIT, check=accept)
    assert names(tmp_path) == ["a.tar.gz"]


def test_a_faster_process_wins_and_is_checked(archive: Path, tmp_path: Path) -> None:
    checked: list[Path] = []

    def check(folder: Path) -> None:
        checked.append(folder)
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "theirs").touch()

    unpack(archive, tmp_path / "data", limit=LIMIT, check=check)
    assert checked[1:] == [tmp_path / "data"]
    assert names(tmp_path) == ["a.tar.gz", "data", "data/theirs"]
