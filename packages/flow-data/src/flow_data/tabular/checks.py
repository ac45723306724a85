"""What tables are refused, because no density of real numbers fits them."""

import torch
from jaxtyping import Bool
from torch import Tensor

from flow_data.integrity import DataError
from flow_data.tabular.table import Table

_SHOWN = 5


def require_density(table: Table) -> Table:
    """The table itself, if all of its values are numbers and all of its columns measured.

    Raises:
        DataError: A value is missing or infinite, or a column is constant or has two values only;
            it says which, and what to do.
    """
    rows = len(table.values)
    if rows < 2:
        raise DataError(table.name, "two rows at least", f"{rows}", "give more data")
    _require_numbers(table)
    low, high = table.values.amin(0), table.values.amax(0)
    _refuse(table, low == high, "constant", "a column that never varies has no density")
    two = ((table.values == low) | (table.values == high)).all(0)
    _refuse(table, two, "categorical, with two values", "its density has no bound")
    return table


def missing(name: str, places: list[tuple[int, str]], count: int) -> DataError:
    """The error for values that are not there.

    Args:
        name: The table.
        places: Row, from 1, and column of the first ones.
        count: How many there are.
    """
    shown = ", ".join(f"row {row} column {column!r}" for row, column in places[:_SHOWN])
    remedy = "drop these rows, fill the values in, or leave the columns out"
    found = f"{count} missing or infinite: {shown}{', …' if count > _SHOWN else ''}"
    return DataError(name, "a finite number in every place", found, remedy)


def categorical(name: str, column: str, example: str) -> DataError:
    """The error for a column of something else than numbers."""
    remedy = (
        "leave the column out, train on each of its categories by itself, or write it as numbers "
        "that mean amounts"
    )
    return DataError(name, "columns of numbers", f"column {column!r} with {example}", remedy)


def _require_numbers(table: Table) -> None:
    bad = (~torch.isfinite(table.values)).nonzero()
    if len(bad):
        places = [(row + 1, table.columns[column]) for row, column in bad[:_SHOWN].tolist()]
        raise missing(table.name, places, len(bad))


def _refuse(table: Table, which: Bool[Tensor, " columns"], kind: str, why: str) -> None:
    names = [table.columns[i] for i in which.nonzero().flatten().tolist()]
    if names:
        found = f"{kind}: {', '.join(map(repr, names))}"
        remedy = f"leave {'them' if len(names) > 1 else 'it'} out, for {why}"
        raise DataError(table.name, "columns that were measured", found, remedy)
