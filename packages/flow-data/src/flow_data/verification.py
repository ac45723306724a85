"""What is there of published data, compared file by file with what should be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flow_data.archives import (
    PublishedArchive,
    folder_digest,
    pinned,
    read_manifest,
    require_content,
    visible_files,
)
from flow_data.images.framing import Framing
from flow_data.images.idx import read_idx
from flow_data.images.picture_sets import picture_files
from flow_data.images.pictures import decoded_pictures
from flow_data.images.published import FASHION_MNIST, MNIST, Family
from flow_data.images.published_cifar import CIFAR10, CIFAR100, CifarArchive
from flow_data.images.published_pictures import PICTURES, PRETRAINED, PicturesSource
from flow_data.images.svhn import SVHN
from flow_data.integrity import Checksum, DataError, file_checksum, is_present
from flow_data.lookup import look_up

_AT_A_TIME = 2000


@dataclass(frozen=True)
class Finding:
    """What was found of one file or folder.

    Attributes:
        path: Of it.
        good: Whether it is as it should be.
        text: What it is, or what is wrong.
    """

    path: Path
    good: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok' if self.good else 'WRONG'}  {self.path}  {self.text}"


def verify_data(name: str, root: Path | str) -> Iterator[Finding]:
    """Compare published data with their digests and counts, whole; nothing is written.

    Of files whose digest nobody published, it is that of the first use, which `fetch_archive`
    pinned. Every picture of a set is decoded.

    Args:
        name: mnist, fashion_mnist, cifar10, cifar100, svhn, a set of `load_picture_set`, or
            pretrained-glow, pretrained-resflow.
        root: Folder of the data.

    Yields:
        A finding for every file, or for every folder of pictures and every broken one in it.

    Raises:
        ValueError: There is no such set.
    """
    root = Path(root)
    names = {known: known for known in VERIFIED}
    match look_up(names, name, "set of data"):
        case "mnist" | "fashion_mnist":
            yield from _family(MNIST if name == "mnist" else FASHION_MNIST, root)
        case "cifar10" | "cifar100":
            yield from _cifar(CIFAR10 if name == "cifar10" else CIFAR100, root)
        case "svhn":
            yield from _svhn(root)
        case "pretrained-glow" | "pretrained-resflow":
            yield from _archive(PRETRAINED[name], root)
        case _:
            yield from _archive(PICTURES[name].archive, root)
            yield from _pictures(PICTURES[name], root)


VERIFIED = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", *PICTURES, *PRETRAINED)
"""Names that `verify_data` knows."""


def _family(family: Family, root: Path) -> Iterator[Finding]:
    folder = root / family.name / "raw"
    for part in (family.train, family.test):
        for file, dimensions in ((part.images, 3), (part.labels, 1)):
            raw, packed = folder / file.stem, folder / f"{file.stem}.gz"
            path = packed if is_present(packed) and not is_present(raw) else raw
            try:
                found = read_idx(path, dimensions).checksum
            except DataError as error:
                yield Finding(path, False, f"expected {error.expected}, got {error.found}")
            else:
                yield _compared(path, Checksum("md5", file.content), found)


def _cifar(archive: CifarArchive, root: Path) -> Iterator[Finding]:
    for file in (*archive.train, *archive.test, archive.meta):
        yield _of_file(root / archive.folder / file.name, Checksum("md5", file.content))


def _svhn(root: Path) -> Iterator[Finding]:
    for part, file in SVHN.items():
        # Nobody needs the largest one, which is not fetched unless asked for.
        if part != "extra" or is_present(root / file.name):
            yield _of_file(root / file.name, Checksum("md5", file.content))


def _archive(archive: PublishedArchive, root: Path) -> Iterator[Finding]:
    file = root / archive.file
    if is_present(file) or archive.folder is None:
        known = archive.checksum or pinned(root, archive)
        yield _of_file(file, known, pinned_here=archive.checksum is None)
    if archive.folder is not None:
        yield _of_folder(archive, root, root / archive.folder)


def _of_folder(archive: PublishedArchive, root: Path, folder: Path) -> Finding:
    if not is_present(folder):
        return Finding(folder, False, f"missing; fetch {archive.urls[0]}, or prepare it")
    try:
        require_content(archive, folder)
        known = read_manifest(root, archive).get("folder_sha256")
    except DataError as error:
        return Finding(folder, False, f"expected {error.expected}, got {error.found}")
    count = f"{len(visible_files(folder))} files"
    if known is None:
        return Finding(folder, True, f"{count}; contents not compared, it was not prepared here")
    found = folder_digest(folder)
    if found != known:
        return Finding(folder, False, f"expected contents with sha256 {known}, got {found}")
    return Finding(folder, True, f"{count}, contents as they were unpacked, sha256 {found}")


def _pictures(source: PicturesSource, root: Path) -> Iterator[Finding]:
    folder = root / source.pictures
    try:
        paths = picture_files(source, folder)
    except DataError as error:
        yield Finding(folder, False, f"expected {error.expected}, got {error.found}")
        return
    good = len(paths) == source.count
    yield Finding(folder, good, f"{len(paths)} pictures of {source.count} that were published")
    known = {folder / picture for picture in source.broken}
    yield from _broken(paths, known)


def _broken(paths: Sequence[Path], known: set[Path]) -> Iterator[Finding]:
    for start in range(0, len(paths), _AT_A_TIME):
        try:
            _, problems = decoded_pictures(paths[start : start + _AT_A_TIME], Framing(size=1))
        except DataError as error:
            yield Finding(paths[0].parent, False, f"not decoded: {error.remedy}")
            return
        for problem in problems:
            told = problem.path in known
            text = "known to be broken, left out" if told else "broken"
            yield Finding(problem.path, told, f"{text}: {problem.reason}")


def _of_file(path: Path, known: Checksum | None, *, pinned_here: bool = False) -> Finding:
    try:
        found = file_checksum(path, "sha256" if known is None else known.algorithm)
    except DataError as error:
        return Finding(path, False, f"{error.found}; {error.remedy}")
    if known is None:
        return Finding(path, True, f"{found}; nobody published one and none was pinned here")
    return _compared(path, known, found, " as pinned at first use" if pinned_here else "")


def _compared(path: Path, known: Checksum, found: Checksum, source: str = "") -> Finding:
    if found == known:
        return Finding(path, True, f"{found}{source}")
    return Finding(path, False, f"expected {known}{source}, got {found}")
