"""Tables in .npy files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flow_data.integrity import DataError, unreadable
from flow_data.tabular.checks import categorical
from flow_data.tabular.table import Table, as_table, kept_columns

_FORMAT = "a .npy file with an array of two dimensions, or of records"


def read_npy(path: Path, left_out: Sequence[str] = ()) -> Table:
    """All columns but those that are left out; of records the names are kept.

    Nothing is unpickled.

    Raises:
        DataError: The file is missing, unreadable or of another format, or holds no numbers.
    """
    array = read_array(path)
    names = array.dtype.names
    if names is not None and array.ndim == 1:
        kept = [names[i] for i in kept_columns(str(path), names, left_out)]
        fields = [_numbers(path, name, array[name]) for name in kept]
        return as_table(str(path), kept, np.stack(fields, axis=1))
    if array.ndim != 2:
        found = f"{array.dtype} of shape {array.shape}"
        raise DataError(path, _FORMAT, found, "save one row a sample")
    rows = _numbers(path, "x1", array)
    return as_table(str(path), None, rows).without(left_out)


def read_array(path: Path) -> npt.NDArray[Any]:
    """What a .npy file holds.

    Raises:
        DataError: The file is missing, unreadable or of another format.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(path, _FORMAT, str(error), "check that it is whole") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not isinstance(array, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance] (a zip)
        raise DataError(path, _FORMAT, "a .npz archive", "save one array alone")
    return array


def _numbers(path: Path, name: str, array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if array.dtype.kind not in "fiu":
        raise categorical(str(path), name, f"values of type {array.dtype}")
    return array.astype(np.float64)
