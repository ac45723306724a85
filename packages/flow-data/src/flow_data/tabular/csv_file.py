"""Tables in text: comma, semicolon or tab separated, with or without names."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flow_data.integrity import DataError, unreadable
from flow_data.tabular.checks import categorical, missing
from flow_data.tabular.table import Table, as_table, kept_columns, plain_names

_SEPARATORS = ",;\t"
_MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-"}


@dataclass(frozen=True)
class _Layout:
    """What the first line tells, and how many lines come before the numbers."""

    separator: str
    columns: tuple[str, ...]
    skipped: int


def read_csv(path: Path, header: bool | None = None, left_out: Sequence[str] = ()) -> Table:
    """All columns but those that are left out.

    Args:
        path: The file, in UTF-8.
        header: Whether its first line has names; None for seeing whether one of the fields is a
            number.
        left_out: Columns that are not read.

    Raises:
        DataError: The file is missing or unreadable, a row has another number of fields, a value is
            missing, or a column is no number.
    """
    try:
        layout = _layout(path, header)
        used = kept_columns(str(path), layout.columns, left_out)
        values = _values(path, layout, used)
    except OSError as error:
        raise unreadable(path, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, "text in UTF-8", str(error), "check the file") from error
    return as_table(str(path), [layout.columns[i] for i in used], values)


def _layout(path: Path, header: bool | None) -> _Layout:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = ((number, line) for number, line in enumerate(stream) if line.strip())
        number, line = next(lines, (0, ""))
    if not line:
        raise DataError(path, "rows of numbers", "an empty file", "check the file")
    separator = max(_SEPARATORS, key=line.count)
    fields = [field.strip() for field in next(csv.reader([line], delimiter=separator))]
    named = not any(map(_is_number, fields)) if header is None else header
    columns = tuple(fields) if named else plain_names(len(fields))
    if len(set(columns)) != len(columns):
        twice = sorted({name for name in columns if columns.count(name) > 1})
        raise DataError(path, "a name of its own for every column", ", ".join(twice), "rename them")
    return _Layout(separator, columns, number + named)


def _values(path: Path, layout: _Layout, used: list[int]) -> npt.NDArray[np.float64]:
    _require_width(path, layout)
    try:
        return np.loadtxt(
            path,
            delimiter=layout.separator,
            skiprows=layout.skipped,
            usecols=used,
            quotechar='"',
            comments=None,
            ndmin=2,
            encoding="utf-8-sig",
        )
    except ValueError as error:
        raise _explained(path, layout, used, error) from error


def _rows(path: Path, layout: _Layout) -> Iterator[list[str]]:
    """The fields of every line that is not empty, less that of the names."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for _ in range(layout.skipped):
            next(stream)
        yield from (row for row in csv.reader(stream, delimiter=layout.separator) if row)


def _require_width(path: Path, layout: _Layout) -> None:
    width, count = len(layout.columns), 0
    for count, row in enumerate(_rows(path, layout), 1):
        if len(row) != width:
            found = f"{len(row)} in row {count}"
            remedy = "check that row, and which character separates the fields"
            raise DataError(path, f"{width} fields in every row", found, remedy)
    if not count:
        remedy = "check the file, and whether its first line has names"
        raise DataError(path, "rows of numbers", "none", remedy)


def _explained(path: Path, layout: _Layout, used: list[int], error: ValueError) -> DataError:
    """What is wrong with the rows: only who has failed to read them looks for the place."""
    places = list[tuple[int, str]]()
    for number, row in enumerate(_rows(path, layout), 1):
        for i in used:
            text, column = row[i].strip(), layout.columns[i]
            if text.lower() in _MISSING:
                places.append((number, column))
            elif not _is_number(text):
                return categorical(str(path), column, f"{text!r} in row {number}")
    if places:
        return missing(str(path), places, len(places))
    return DataError(path, "rows of numbers", str(error), "check the file")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
