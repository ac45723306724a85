"""Tables in files of any of the usual formats."""

from collections.abc import Callable, Sequence
from pathlib import Path

from flow_data.integrity import DataError
from flow_data.tabular.checks import require_density
from flow_data.tabular.csv_file import read_csv
from flow_data.tabular.npy_file import read_npy
from flow_data.tabular.parquet_file import read_parquet
from flow_data.tabular.table import Table

_READERS: dict[str, Callable[[Path, Sequence[str]], Table]] = {
    ".npy": read_npy,
    ".parquet": read_parquet,
}
_TEXT = ".csv"
TABLE_FILES = (_TEXT, *_READERS)
"""Endings of the files that `read_table` reads."""


def read_table(
    path: Path | str, *, header: bool | None = None, left_out: Sequence[str] = ()
) -> Table:
    """A table of measured numbers from a .csv, .npy or .parquet file.

    Args:
        path: Comma, semicolon or tab separated text, with or without names in the first line; an
            array of two dimensions, or of records with names; or a Parquet file, for which pyarrow
            must be there.
        header: Whether the first line of a .csv file has names; None for seeing whether one of its
            fields is a number. Columns without names are x1, x2, ….
        left_out: Names of columns that are not read.

    Raises:
        DataError: The file is missing, unreadable or of another format, a value is missing (it says
            where), or a column is categorical or constant.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in TABLE_FILES:
        expected = f"a file that ends in {', '.join(TABLE_FILES)}"
        raise DataError(path, expected, path.suffix or "no ending", "convert it to one of these")
    read = _READERS.get(ending)
    return require_density(
        read_csv(path, header, left_out) if read is None else read(path, left_out)
    )
