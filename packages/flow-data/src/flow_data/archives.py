"""Published archives and files: fetched, unpacked, and pinned where nobody published a digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flow_data.download import download
from flow_data.integrity import (
    Checksum,
    DataError,
    file_checksum,
    is_present,
    require_checksum,
    unwritable,
)
from flow_data.unpack import unpack
from flow_data.whole_file import whole_file

_MANIFEST = ".{name}.prepared.json"


@dataclass(frozen=True)
class PublishedArchive:
    """A file on the net, and the folder that it becomes.

    Attributes:
        name: For messages and for the manifest.
        urls: Addresses, best first.
        file: Its name below the root.
        size: Bytes that it may have.
        checksum: Its published digest; None where there is none.
        folder: Where it is unpacked to, below the root: the last part is its name in the archive.
            None for a file that is used as it is.
        unpacked: Bytes that its content has at most.
        members: Files and folders that it has at most.
        files: Exactly how many files the folder has to have; None where that is not known.
        required: Files that the folder must have.
    """

    name: str
    urls: tuple[str, ...]
    file: str
    size: range
    checksum: Checksum | None = None
    folder: str | None = None
    unpacked: int = 0
    members: int = 10_000
    files: int | None = None
    required: tuple[str, ...] = ()


def fetch_archive(root: Path | str, archive: PublishedArchive) -> Path:
    """Fetch an archive, verify and unpack it; what is there already is kept.

    A file of which nobody published a digest is accepted by its size, and its SHA-256 is pinned in
    a manifest beside it: whoever fetches it again, or verifies it, is told of another content.
    Everything appears whole or not at all, the manifest last.

    Args:
        root: Folder of the data; it is made.
        archive: What to fetch.

    Returns:
        The folder, or the file where nothing is unpacked.

    Raises:
        DataError: As in `flow_data.download`; or the content is not that which was pinned, or not
            as it should be.
    """
    root = Path(root)
    file, place = root / archive.file, root / (archive.folder or archive.file)
    if archive.folder is not None and is_present(place):
        require_content(archive, place)
        return place
    download(
        archive.urls,
        file,
        checksum=archive.checksum,
        size=archive.size,
        room=archive.unpacked,
    )
    require_pinned(root, archive)
    if archive.folder is not None:
        _make_folder(place.parent)
        unpack(
            file,
            place,
            limit=archive.unpacked,
            check=lambda folder: require_content(archive, folder),
            most_members=archive.members,
        )
    _write_manifest(root, archive, place)
    return place


def require_content(archive: PublishedArchive, folder: Path) -> None:
    """Refuse a folder that lacks something.

    Raises:
        DataError: It says what.
    """
    remedy = f"move {folder} away and fetch it again; nothing was overwritten"
    for name in archive.required:
        if not is_present(folder / name):
            raise DataError(folder, name, "no such file", remedy)
    if archive.files is not None:
        count = len(visible_files(folder))
        if count != archive.files:
            raise DataError(folder, f"{archive.files} files", f"{count}", remedy)


def require_pinned(root: Path, archive: PublishedArchive) -> None:
    """Refuse an archive of another content than was pinned, where nobody published a digest.

    Raises:
        DataError: It is another one, or the file cannot be read.
    """
    known = pinned(root, archive)
    if archive.checksum is None and known is not None:
        manifest = manifest_path(root, archive)
        remedy = f"fetch it again, or remove {manifest} if this is what was published"
        require_checksum(root / archive.file, known, remedy)


def pinned(root: Path, archive: PublishedArchive) -> Checksum | None:
    """The SHA-256 that a file of unknown digest had when it was first used."""
    found = read_manifest(root, archive).get("sha256")
    return Checksum("sha256", found) if isinstance(found, str) else None


def read_manifest(root: Path, archive: PublishedArchive) -> Mapping[str, object]:
    """What was written when the archive was unpacked; empty where it was not.

    Raises:
        DataError: It is there and spoilt.
    """
    path = manifest_path(root, archive)
    if not is_present(path):
        return {}
    try:
        found: object = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(path, "a JSON object", str(error), "remove it and prepare again") from error
    if not isinstance(found, dict):
        raise DataError(path, "a JSON object", type(found).__name__, "remove it")
    return cast("dict[str, object]", found)


def manifest_path(root: Path, archive: PublishedArchive) -> Path:
    """Where the manifest of an archive is."""
    return root / _MANIFEST.format(name=archive.name)


def folder_digest(folder: Path) -> str:
    """SHA-256 of names and contents of all files in a folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in visible_files(folder):
        content = file_checksum(path, "sha256").hexdigest
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def visible_files(folder: Path) -> list[Path]:
    """The files in a folder and the folders in it; without those that begin with a full stop."""
    return sorted(
        path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file()
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, 0, error) from error


def _write_manifest(root: Path, archive: PublishedArchive, place: Path) -> None:
    told = {
        "name": archive.name,
        "file": archive.file,
        "bytes": (root / archive.file).stat().st_size,
        "digest": "published" if archive.checksum else "pinned at first use",
        "sha256": file_checksum(root / archive.file, "sha256").hexdigest,
    }
    if archive.folder is not None:
        told |= {"files": len(visible_files(place)), "folder_sha256": folder_digest(place)}
    path = manifest_path(root, archive)
    try:
        with whole_file(path) as stream:
            stream.write(f"{json.dumps(told, indent=2)}\n".encode())
    except OSError as error:
        raise unwritable(path, 0, error) from error
