"""Street View House Numbers in the layout of torchvision, read without it, offline."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch

from flow_data.download import download
from flow_data.images.imageset import ImageSet
from flow_data.integrity import Checksum, DataError, Verification, bytes_checksum, unreadable
from flow_data.lookup import look_up

SvhnPart: TypeAlias = Literal["train", "test", "extra"]

_CLASSES = 10
_FORMAT = "a .mat file with X, bytes of shape (32, 32, 3, count), and y, labels 1 to 10"
_REMEDY = "fetch the file again"


@dataclass(frozen=True)
class SvhnFile:
    """A published file.

    Attributes:
        name: Below the root.
        content: Its md5.
        size: Bytes that it may have.
        count: Images in it.
    """

    name: str
    content: str
    size: range
    count: int


SVHN: dict[SvhnPart, SvhnFile] = {
    "train": SvhnFile(
        "train_32x32.mat",
        "e26dedcc434d2e4c54c9b2d4a06d8373",
        range(150_000_000, 220_000_000),
        73257,
    ),
    "test": SvhnFile(
        "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", range(50_000_000, 80_000_000), 26032
    ),
    "extra": SvhnFile(
        "extra_32x32.mat",
        "a93ce644f1a588dc4d68dda5feec44a7",
        range(1_000_000_000, 1_600_000_000),
        531131,
    ),
}
MIRRORS = ("http://ufldl.stanford.edu/housenumbers/",)


def load_svhn(
    root: Path | str, part: SvhnPart = "test", *, verify: Verification = "content"
) -> ImageSet:
    """SVHN from `root/{train,test,extra}_32x32.mat`; never touches the network.

    The md5 of a file is compared before anything in it is looked at.

    Args:
        root: The folder that torchvision calls root.
        part: Which file.
        verify: `"content"` accepts only the published file, by md5; `"format"` accepts any images
            and labels of the right format.

    Returns:
        Images 3x32x32 with 256 levels; the label of the digit 0, 10 in the file, is 0.

    Raises:
        DataError: The file is missing, unreadable, of another format or not the data; or scipy,
            which reads it, is not installed.
        ValueError: There is no such part.
    """
    file = look_up({str(name): file for name, file in SVHN.items()}, part, "part of SVHN")
    path = Path(root) / file.name
    content = _content(path)
    # Anything but the one permissive word keeps the strict check.
    if verify != "format":
        checksum, found = Checksum("md5", file.content), bytes_checksum([content], "md5")
        if found != checksum:
            remedy = 'fetch the file again, or accept other data of this format by verify="format"'
            raise DataError(path, f"content with {checksum}", f"{found}", remedy)
    images, labels = _arrays(path, content)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), 256, "SVHN")


def download_svhn(
    root: Path | str,
    parts: Sequence[SvhnPart] = ("train", "test"),
    *,
    mirrors: Sequence[str] = MIRRORS,
) -> None:
    """Fetch published files of SVHN into `root`, verified one by one; what is there is kept.

    Args:
        root: The folder that torchvision calls root.
        parts: Which of them; `extra` alone has 1.3 GB.
        mirrors: Addresses that end in a slash, best first.

    Raises:
        DataError: As in `flow_data.download`.
    """
    for part in parts:
        file = SVHN[part]
        download(
            [f"{mirror}{file.name}" for mirror in mirrors],
            Path(root) / file.name,
            checksum=Checksum("md5", file.content),
            size=file.size,
        )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        remedy = f"fetch {MIRRORS[0]}{path.name} into that folder, or by download_svhn"
        raise DataError(path.parent, path.name, "no such file", remedy) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _arrays(path: Path, content: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        from scipy.io import loadmat  # noqa: PLC0415 (needed for these files alone)
    except ImportError as error:
        raise DataError(
            path,
            "scipy to read .mat files",
            str(error),
            'pip install scipy, or "flow-data[matlab]"',
        ) from error
    try:
        entries = cast("dict[str, object]", loadmat(io.BytesIO(content), variable_names=["X", "y"]))
        return _images(entries.get("X")), _labels(entries.get("y"), entries.get("X"))
    # A spoilt file can raise anything.
    except Exception as error:
        raise DataError(path, _FORMAT, f"{error or type(error).__name__}", _REMEDY) from error


def _images(x: object) -> npt.NDArray[np.uint8]:
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.shape[:3] != (32, 32, 3):
        raise ValueError("other images")
    return np.ascontiguousarray(x.reshape(32, 32, 3, -1).transpose(3, 2, 0, 1))


def _labels(y: object, x: object) -> npt.NDArray[np.int64]:
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "iu":
        raise ValueError("no integer labels")
    labels = y.reshape(-1).astype(np.int64)
    if not isinstance(x, np.ndarray) or len(labels) != x.shape[-1]:
        raise ValueError(f"{len(labels)} labels")
    if not bool(((labels >= 1) & (labels <= _CLASSES)).all()):
        raise ValueError("labels outside 1 to 10")
    return labels % _CLASSES
