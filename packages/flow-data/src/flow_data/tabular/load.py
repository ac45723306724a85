"""The published tables, as the publications divide and standardise them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flow_data.integrity import DataError, Verification, is_present, unreadable
from flow_data.lookup import look_up
from flow_data.tabular import preprocessing
from flow_data.tabular.npy_file import read_array
from flow_data.tabular.preprocessing import Divided, TableRows
from flow_data.tabular.published import PUBLISHED_TABLES, PublishedTable
from flow_data.tabular.table import TableSplits, plain_names

_NAMES_OF_POWER = (
    *("global_active_power", "voltage"),
    *("sub_metering_1", "sub_metering_2", "sub_metering_3", "time"),
)


def load_published_table(
    name: str, root: Path | str, *, verify: Verification = "content"
) -> TableSplits:
    """POWER, GAS, HEPMASS, MINIBOONE or BSDS300, from what `prepare_tables` left below `root`.

    The divisions are those of Papamakarios et al. 2017, the same in every run. TableRows are
    standardised as there: POWER and MINIBOONE by what is not test, GAS by all rows, HEPMASS by its
    training file, BSDS300 not at all.

    Args:
        name: Which table, in lower case.
        root: The folder of the tables.
        verify: `"content"` accepts only as many rows and columns as published; `"format"` any
            table of the same format, the first rows of one for example.

    Raises:
        DataError: A file is missing, spoilt or not the published table.
        ValueError: There is no such table.
    """
    table = look_up(PUBLISHED_TABLES, name, "published table")
    paths = [Path(root) / file for file in table.prepared]
    absent = [path for path in paths if not is_present(path)]
    if absent:
        remedy = "give the folder of the tables, or have prepare_tables fetch and convert them"
        raise DataError(absent[0], "a table", "no such file", remedy)
    divided = _DIVISIONS[name](paths)
    _require_rows(paths[0], divided)
    # Anything but the one permissive word keeps the strict check.
    if verify != "format":
        _require_published(paths[0], divided, table)
    train, validation, test = (torch.from_numpy(rows.astype(np.float32)) for rows in divided.parts)
    mean, deviation = (torch.from_numpy(t) for t in (divided.mean, divided.deviation))
    return TableSplits(name, divided.columns, train, validation, test, mean, deviation)


def _power(paths: list[Path]) -> Divided:
    return preprocessing.power(_rows(paths[0], least=8), _NAMES_OF_POWER)


def _gas(paths: list[Path]) -> Divided:
    arrays = _arrays(paths[0], "values", "columns")
    names = tuple(map(str, arrays["columns"]))
    absent = [name for name in preprocessing.GAS_TARGETS if name not in names]
    if absent:
        found, remedy = ", ".join(names), "fetch the published table"
        raise DataError(paths[0], f"columns {', '.join(absent)}", found, remedy)
    return preprocessing.gas(arrays["values"], names)


def _hepmass(paths: list[Path]) -> Divided:
    train, test = (_arrays(path, "values", "columns") for path in paths)
    if test["values"].shape[1] != train["values"].shape[1] + 1:
        expected = f"a column more than the {train['values'].shape[1]} of the training file"
        remedy = "fetch the published tables"
        raise DataError(paths[1], expected, f"{test['values'].shape[1]}", remedy)
    names = tuple(map(str, train["columns"]))
    return preprocessing.hepmass(train["values"], test["values"], names)


def _miniboone(paths: list[Path]) -> Divided:
    rows = _rows(paths[0], least=1)
    return preprocessing.miniboone(rows, plain_names(rows.shape[1]))


def _bsds300(paths: list[Path]) -> Divided:
    parts = _arrays(paths[0], "train", "validation", "test")
    train, validation, test = (parts[name] for name in ("train", "validation", "test"))
    return preprocessing.unchanged(train, validation, test, plain_names(train.shape[1]))


def _rows(path: Path, *, least: int) -> TableRows:
    array = read_array(path)
    if array.ndim != 2 or array.dtype.kind != "f" or array.shape[1] < least:
        expected = f"rows of at least {least} numbers"
        found = f"{array.dtype} of shape {array.shape}"
        raise DataError(path, expected, found, "fetch the published table")
    return array.astype(np.float64)


def _arrays(path: Path, *names: str) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except KeyError as error:
        raise DataError(
            path, f"arrays {', '.join(names)}", str(error), "convert it anew"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    # Spoilt zip files raise whatever their parts do.
    except Exception as error:
        raise DataError(path, "a whole .npz file", str(error), "remove and convert anew") from error


def _require_rows(path: Path, divided: Divided) -> None:
    for rows in divided.parts:
        if len(rows) < 2 or not np.isfinite(rows).all():
            found = f"{len(rows)} rows, or some that are not finite"
            remedy = "fetch the published table"
            raise DataError(path, "finite rows in all parts", found, remedy)


def _require_published(path: Path, divided: Divided, table: PublishedTable) -> None:
    wanted = (table.train, table.validation, table.test)
    rows = tuple(len(part) for part in divided.parts)
    columns = divided.parts[0].shape[1]
    if (rows, columns) != (wanted, table.dimensions):
        expected = f"{_counts(wanted)} rows of {table.dimensions} columns"
        remedy = 'fetch the published table, or accept another by verify="format"'
        raise DataError(path, expected, f"{_counts(rows)} of {columns}", remedy)


def _counts(sizes: tuple[int, ...]) -> str:
    return " + ".join(f"{size:,}" for size in sizes)


_DIVISIONS: dict[str, Callable[[list[Path]], Divided]] = {
    "power": _power,
    "gas": _gas,
    "hepmass": _hepmass,
    "miniboone": _miniboone,
    "bsds300": _bsds300,
}
