"""Tables of real numbers, and their division into standardised parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from flow_data.integrity import DataError
from flow_data.splits import splits


@final
@dataclass(frozen=True, eq=False)
class Table:
    """Rows of real numbers under names.

    Attributes:
        name: Name for reports; of a file its path.
        columns: Names of the columns, all different.
        values: One row a sample.

    Raises:
        ValueError: There are not as many different names as columns.
    """

    name: str
    columns: tuple[str, ...]
    values: Float64[Tensor, "rows columns"]

    def __post_init__(self) -> None:
        if len(set(self.columns)) != len(self.columns) or self.values.shape[1:] != (
            len(self.columns),
        ):
            raise ValueError(
                f"expected a name of its own for each of {tuple(self.values.shape[1:])} columns, "
                f"got {', '.join(self.columns)}"
            )

    def without(self, names: Sequence[str]) -> "Table":
        """The table without some columns.

        Raises:
            DataError: There is no such column, or none is left.
        """
        kept = kept_columns(self.name, self.columns, names)
        return Table(self.name, tuple(self.columns[i] for i in kept), self.values[:, kept])


@final
@dataclass(frozen=True, eq=False)
class TableSplits:
    """The three parts of a table, as models see them: (value - mean) / deviation.

    A log-density of a row in the units of the table is that of the part less `log_scale`.

    Attributes:
        name: Name for reports.
        columns: Names of the columns.
        train: Rows to train on.
        validation: Rows to choose models by.
        test: Rows of the reported figure.
        mean: What was subtracted from every column.
        deviation: What every column was divided by.
    """

    name: str
    columns: tuple[str, ...]
    train: Float32[Tensor, "train columns"]
    validation: Float32[Tensor, "validation columns"]
    test: Float32[Tensor, "test columns"]
    mean: Float64[Tensor, " columns"]
    deviation: Float64[Tensor, " columns"]

    @property
    def log_scale(self) -> float:
        """Σ log deviation."""
        return float(self.deviation.log().sum())

    def in_units(self, rows: Float[Tensor, "rows columns"]) -> Float64[Tensor, "rows columns"]:
        """Rows of a part in the units of the table."""
        return rows.double().cpu() * self.deviation + self.mean


def split_table(
    table: Table, *, validation: float = 0.2, test: float = 0.2, seed: int = 0
) -> TableSplits:
    """Divide a table at random, and standardise it by its training rows.

    Args:
        table: Columns that vary within the training rows.
        validation: Fraction of the rows, rounded down.
        test: Likewise.
        seed: Of the division, and of nothing else.

    Raises:
        DataError: A part would be empty, or a column is constant in the training rows.
    """
    count = len(table.values)
    sizes = int(validation * count), int(test * count)
    # Two rows have a deviation, and two samples a standard error.
    if min(*sizes, count - sum(sizes)) < 2:
        found = f"{count} rows, of which {sizes[0]} to validate and {sizes[1]} to test"
        remedy = "give more rows, or other fractions"
        raise DataError(table.name, "two rows at least in each part", found, remedy)
    parts = splits(count, validation=sizes[0], test=sizes[1], seed=seed)
    seen = table.values[parts.train]
    _require_spread(table, seen)
    mean, deviation = seen.mean(0), seen.std(0, correction=0)
    train, held_out, final = (
        ((table.values[part] - mean) / deviation).float()
        for part in (parts.train, parts.validation, parts.test)
    )
    return TableSplits(table.name, table.columns, train, held_out, final, mean, deviation)


def _require_spread(table: Table, train: Tensor) -> None:
    same = (train.amin(0) == train.amax(0)).nonzero().flatten().tolist()
    if same:
        names = ", ".join(table.columns[i] for i in same)
        remedy = "leave these columns out, or divide with another seed"
        raise DataError(table.name, "columns that vary in the training rows", names, remedy)


def kept_columns(name: str, columns: Sequence[str], left_out: Sequence[str]) -> list[int]:
    """Indices of the columns that are not left out.

    Raises:
        DataError: There is no such column, or none is left.
    """
    unknown = [column for column in left_out if column not in columns]
    if unknown:
        remedy = "check the names of the columns that are left out"
        raise DataError(name, f"columns among {', '.join(columns)}", ", ".join(unknown), remedy)
    kept = [i for i, column in enumerate(columns) if column not in left_out]
    if not kept:
        raise DataError(name, "a column at least", "none", "leave fewer columns out")
    return kept


def plain_names(count: int) -> tuple[str, ...]:
    """x1, x2, …: names of columns that have none."""
    return tuple(f"x{i}" for i in range(1, count + 1))


def as_table(name: str, columns: Sequence[str] | None, values: object) -> Table:
    """A table of anything that torch can make float64 of."""
    rows = torch.as_tensor(values, dtype=torch.float64)
    return Table(name, plain_names(rows.shape[1]) if columns is None else tuple(columns), rows)
