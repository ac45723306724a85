"""Many picture files at once; those that are missing or broken are all reported by name."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flow_data.images.framing import Framing
from flow_data.integrity import DataError

_AT_A_TIME = 256
_NAMED = 5


def read_pictures(
    folder: Path, paths: Sequence[Path], framing: Framing
) -> UInt8[np.ndarray, "count 3 height width"]:
    """Decode pictures in their order, in several threads.

    Args:
        folder: Where the paths are; they are reported relative to it.
        paths: PNG or JPEG files.
        framing: Which are accepted and what is made of them.

    Raises:
        DataError: Pillow is missing; or pictures are: it names the first few of those that are
            missing, unreadable, broken or of another size, each with the reason, and counts them.
    """
    decode, _ = _decoder()
    images = np.empty((len(paths), 3, *framing.shape), dtype=np.uint8)

    def fill(start: int) -> list[str]:
        problems: list[str] = []
        for k, path in enumerate(paths[start : start + _AT_A_TIME], start):
            try:
                images[k] = decode(path, framing)
            except DataError as error:
                problems.append(f"{path.relative_to(folder).as_posix()} ({error.found})")
        return problems

    with ThreadPoolExecutor() as pool:
        problems = [
            one for some in pool.map(fill, range(0, len(paths), _AT_A_TIME)) for one in some
        ]
    _report(folder, len(paths), problems)
    return images


def first_shape(path: Path) -> tuple[int, int]:
    """Height and width of a picture.

    Raises:
        DataError: Pillow is missing, or the picture is missing or broken.
    """
    _, picture_shape = _decoder()
    return picture_shape(path)


def _report(folder: Path, count: int, problems: Sequence[str]) -> None:
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        found = f"{len(problems)} that are not: {', '.join(problems[:_NAMED])}{more}"
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
