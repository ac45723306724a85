"""Images in a file of `torch.save`, such as `dtd.t7` and `places.t7`."""

import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from flow_data.images.imageset import ImageSet
from flow_data.integrity import DataError, unreadable

_EXPECTED = "a tensor written by torch.save, numbers 0 to 255 of shape (count, channels, h, w)"
_LARGEST = 2**33


def load_tensor_images(path: Path | str) -> ImageSet:
    """Images from one tensor; the pickle in the file is not run, only tensors are taken from it.

    Args:
        path: Written by `torch.save`; its values are integers 0 ... 255, of whatever type. What
            is in between is rounded.

    Returns:
        Images with 256 levels and no labels (-1), named as the file.

    Raises:
        DataError: The file is missing, spoilt, too large, or holds something else: also images
            scaled to [0, 1], and files of Lua's Torch, which may have the same ending.
    """
    path = Path(path)
    tensor = _tensor(path)
    if tensor.ndim != 4 or not tensor.numel() or tensor.is_complex():
        raise _refused(path, f"{tensor.dtype} of shape {tuple(tensor.shape)}")
    if tensor.dtype != torch.uint8:
        tensor = _integers(path, tensor)
    return ImageSet(tensor, torch.full((len(tensor),), -1), 256, path.stem)


def _integers(path: Path, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise _refused(path, "numbers that are not finite")
    low, high = float(tensor.min()), float(tensor.max())
    if low < 0 or high > 255:
        raise _refused(path, f"numbers from {low:g} to {high:g}")
    if high <= 1:
        raise _refused(path, f"none above {high:g}: images that are scaled to [0, 1]")
    return tensor.round().to(torch.uint8)


def _tensor(path: Path) -> Tensor:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if size > _LARGEST:
        raise DataError(path, f"at most {_LARGEST} bytes", f"{size}", "give a smaller file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that are old
            found: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Says at length how to run the pickle all the same.
        raise _refused(path, "something else, none of which was run") from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _refused(path, " ".join(str(error).split())[:150]) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not isinstance(found, Tensor):
        raise _refused(path, f"a {type(found).__name__}")
    return found.detach()


def _refused(path: Path, found: str) -> DataError:
    return DataError(path, _EXPECTED, found, "give a file of such a tensor")
