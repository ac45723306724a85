"""Tables in Parquet files, by pyarrow where it is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flow_data.integrity import DataError, unreadable
from flow_data.tabular.checks import categorical, missing
from flow_data.tabular.table import Table, as_table, kept_columns


def read_parquet(path: Path, left_out: Sequence[str] = ()) -> Table:
    """All columns but those that are left out.

    Raises:
        DataError: pyarrow is not installed, the file is missing, unreadable or of another format,
            or a column is no number or misses values.
    """
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 (an extra; slow to import)
    except ImportError as error:
        remedy = 'pip install pyarrow, or "flow-data[parquet]"'
        raise DataError(path, "the package pyarrow, to read Parquet", "none", remedy) from error
    try:
        with path.open("rb") as stream:
            content: Any = parquet.read_table(stream)
    except ArrowException as error:
        raise DataError(path, "a Parquet file", str(error), "check that it is whole") from error
    except OSError as error:
        raise unreadable(path, error) from error
    every = list(map(str, content.column_names))
    names = [every[i] for i in kept_columns(str(path), every, left_out)]
    columns = [_numbers(path, name, content.column(name)) for name in names]
    return as_table(str(path), names, np.stack(columns, axis=1))


def _numbers(path: Path, name: str, column: Any) -> npt.NDArray[np.float64]:  # noqa: ANN401 (untyped)
    if column.null_count:
        rows = np.flatnonzero(column.is_null().to_numpy())
        raise missing(str(path), [(int(row) + 1, name) for row in rows], len(rows))
    values: npt.NDArray[np.generic] = column.to_numpy()
    if values.dtype.kind not in "fiu":
        raise categorical(str(path), name, f"values of type {column.type}")
    return values.astype(np.float64)
