"""PNG and JPEG files as arrays, by Pillow; the only module that needs it."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from flow_data.images.framing import Framing
from flow_data.integrity import DataError, unreadable

Rgb = UInt8[np.ndarray, "3 height width"]

_FORMATS = ("PNG", "JPEG")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
_EXPECTED = "a picture, PNG or JPEG, with 8 bits a channel"
_REMEDY = "fetch the file again"

# Pictures are decoded in threads, and Pillow looks for its decoders when the first is needed.
Image.preinit()


def decode(path: Path, framing: Framing) -> Rgb:
    """The red, green and blue of one picture; transparency is dropped, grey becomes colour.

    Raises:
        DataError: The file is missing, unreadable, truncated, no picture or of another size.
    """
    picture = _open(path)
    height, width = framing.expected or (picture.height, picture.width)
    if (picture.height, picture.width) != (height, width):
        found = f"{picture.height}x{picture.width}"
        raise DataError(path, f"{height}x{width} pixels", found, "check that it is the right file")
    # A copy, because the channels of Pillow's bytes come last.
    return np.ascontiguousarray(np.asarray(_frame(picture, framing)).transpose(2, 0, 1))


def picture_shape(path: Path) -> tuple[int, int]:
    """Height and width of a picture.

    Raises:
        DataError: As in `decode`.
    """
    picture = _open(path)
    return picture.height, picture.width


def _open(path: Path) -> Image.Image:
    picture = _load(path)
    if picture.mode not in _MODES:
        raise DataError(path, _EXPECTED, f"one of mode {picture.mode}", "convert it to 8 bits")
    return picture.convert("RGB")


def _load(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            picture.load()
            return picture
    except UnidentifiedImageError as error:
        raise DataError(path, _EXPECTED, "neither", _REMEDY) from error
    except OSError as error:
        # Errors of the system have a number; Pillow's own, for truncated files, have none.
        if error.errno is None:
            raise DataError(path, _EXPECTED, f"{error}", _REMEDY) from error
        raise unreadable(path, error) from error
    # What else spoilt files lead to, and files that would fill the memory.
    except (EOFError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(path, _EXPECTED, f"{error}", _REMEDY) from error


def _frame(picture: Image.Image, framing: Framing) -> Image.Image:
    if framing.size is None:
        return picture
    side = framing.square or min(picture.width, picture.height)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square.resize((framing.size, framing.size), Image.Resampling.BILINEAR)
