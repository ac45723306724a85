"""Many picture files at once; those that are missing or broken are all reported by name."""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flow_data.images.framing import Framing
from flow_data.integrity import DataError

_AT_A_TIME = 256
_NAMED = 5


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be had, and why."""

    path: Path
    reason: str


def read_pictures(
    folder: Path, paths: Sequence[Path], framing: Framing, *, left_out: Collection[Path] = ()
) -> UInt8[np.ndarray, "count 3 height width"]:
    """Decode pictures in their order, in several threads.

    Args:
        folder: Where the paths are; they are reported relative to it.
        paths: PNG or JPEG files.
        framing: Which are accepted and what is made of them.
        left_out: Those that are left out where they are broken.

    Raises:
        DataError: Pillow is missing; or pictures are: it names the first few of those that are
            missing, unreadable, broken or of another size, each with the reason, and counts them.
    """
    images, problems = decoded_pictures(paths, framing)
    unknown = [problem for problem in problems if problem.path not in left_out]
    _report(folder, len(paths), unknown)
    broken = {problem.path for problem in problems}
    kept = [k for k, path in enumerate(paths) if path not in broken]
    return images if not problems else images[kept]


def decoded_pictures(
    paths: Sequence[Path], framing: Framing
) -> tuple[UInt8[np.ndarray, "count 3 height width"], list[Unreadable]]:
    """Decode pictures; what is at the places of those that cannot be read means nothing.

    Args:
        paths: PNG or JPEG files.
        framing: Which are accepted and what is made of them.

    Returns:
        The images, and those that are missing, unreadable, broken or of another size.

    Raises:
        DataError: Pillow is missing.
    """
    decode, _ = _decoder()
    images = np.zeros((len(paths), 3, *framing.shape), dtype=np.uint8)

    def fill(start: int) -> list[Unreadable]:
        problems: list[Unreadable] = []
        for k, path in enumerate(paths[start : start + _AT_A_TIME], start):
            try:
                images[k] = decode(path, framing)
            except DataError as error:
                problems.append(Unreadable(path, error.found))
        return problems

    with ThreadPoolExecutor() as pool:
        parts = pool.map(fill, range(0, len(paths), _AT_A_TIME))
        return images, [problem for part in parts for problem in part]


def first_shape(path: Path) -> tuple[int, int]:
    """Height and width of a picture.

    Raises:
        DataError: Pillow is missing, or the picture is missing or broken.
    """
    _, picture_shape = _decoder()
    return picture_shape(path)


def _report(folder: Path, count: int, problems: Sequence[Unreadable]) -> None:
    if problems:
        named = [f"{p.path.relative_to(folder).as_posix()} ({p.reason})" for p in problems[:_NAMED]]
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        found = f"{len(problems)} that are not: {', '.join(named)}{more}"
        remedy = "fetch these files again"
        raise DataError(folder, f"{count} readable pictures of one kind", found, remedy)


def _decoder() -> tuple[
    Callable[[Path, Framing], UInt8[np.ndarray, "3 height width"]],
    Callable[[Path], tuple[int, int]],
]:
    try:
        # Imported here because Pillow is an extra: everything else works without it.
        from flow_data.images.decode import decode, picture_shape  # noqa: PLC0415
    except ImportError as error:
        remedy = 'pip install "flow-data[images]", or pip install pillow'
        raise DataError("pictures", "Pillow to decode them", f"{error}", remedy) from error
    return decode, picture_shape
