"""What the authors of Masked Autoregressive Flows do to the tables, step by step.

Source: Papamakarios, Pavlakou and Murray 2017, appendix D, and their code. Numbers are drawn by
numpy's `RandomState`, whose streams are frozen (NEP 19), so that POWER is theirs row by row.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

TableRows: TypeAlias = npt.NDArray[np.float64]

GAS_TARGETS = ("Meth", "Eth", "Time")
"""Columns of GAS that are left out."""
_CORRELATED = 0.98
_OFTEN = 5


@dataclass(frozen=True)
class Divided:
    """Standardised parts of a table.

    Attributes:
        columns: Names of the columns.
        parts: TableRows to train on, to validate by, and to test.
        mean: What was subtracted from every column.
        deviation: What every column was divided by.
    """

    columns: tuple[str, ...]
    parts: tuple[TableRows, TableRows, TableRows]
    mean: TableRows
    deviation: TableRows


def power(rows: TableRows, names: tuple[str, ...]) -> Divided:
    """Shuffled, less columns 3 and 1, with uniform noise that fills the gaps of its digits."""
    source = np.random.RandomState(42)
    rows = rows.copy()
    source.shuffle(rows)
    rows = np.delete(np.delete(rows, 3, axis=1), 1, axis=1)
    count = len(rows)
    # Drawn in this order.
    voltage, gap = 0.01 * source.rand(count, 1), 0.001 * source.rand(count, 1)
    metering, time = source.rand(count, 3), np.zeros((count, 1))
    return _standardised(rows + np.hstack([gap, voltage, metering, time]), names)


def gas(rows: TableRows, names: tuple[str, ...]) -> Divided:
    """Less what is measured, the time, and the first of columns that tell the same."""
    kept = [i for i, name in enumerate(names) if name not in GAS_TARGETS]
    same = np.corrcoef(rows[:, kept], rowvar=False) > _CORRELATED
    while (many := same.sum(1) > 1).any():
        first = int(np.flatnonzero(many)[0])
        del kept[first]
        same = np.delete(np.delete(same, first, axis=0), first, axis=1)
    rows = rows[:, kept]
    mean, deviation = rows.mean(0), rows.std(0, ddof=1)
    parts = divided_from_the_end((rows - mean) / deviation)
    return Divided(tuple(names[i] for i in kept), parts, mean, deviation)


def hepmass(train: TableRows, test: TableRows, names: tuple[str, ...]) -> Divided:
    """The signal alone, less features whose smallest value comes often."""
    train = train[train[:, 0] == 1, 1:]
    # The test file has a column that the training file lacks.
    test = test[test[:, 0] == 1, 1:-1]
    mean, deviation = train.mean(0), train.std(0, ddof=1)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    kept = (train == train.min(0)).sum(0) <= _OFTEN
    train, validation = last_tenth(train[:, kept])
    columns = tuple(name for name, keep in zip(names[1:], kept, strict=True) if keep)
    return Divided(columns, (train, validation, test[:, kept]), mean[kept], deviation[kept])


def miniboone(rows: TableRows, names: tuple[str, ...]) -> Divided:
    """Divided from the end, as the rows are."""
    return _standardised(rows, names)


def unchanged(
    train: TableRows, validation: TableRows, test: TableRows, names: tuple[str, ...]
) -> Divided:
    """Parts that are divided already, and have one unit."""
    width = train.shape[1]
    return Divided(names, (train, validation, test), np.zeros(width), np.ones(width))


def _standardised(rows: TableRows, names: tuple[str, ...]) -> Divided:
    train, validation, test = divided_from_the_end(rows)
    seen = rows[: len(train) + len(validation)]
    mean, deviation = seen.mean(0), seen.std(0)
    parts = tuple((part - mean) / deviation for part in (train, validation, test))
    return Divided(names, (parts[0], parts[1], parts[2]), mean, deviation)


def divided_from_the_end(rows: TableRows) -> tuple[TableRows, TableRows, TableRows]:
    """The last tenth to test, the last tenth of the rest to validate."""
    rest, test = last_tenth(rows)
    train, validation = last_tenth(rest)
    return train, validation, test


def last_tenth(rows: TableRows) -> tuple[TableRows, TableRows]:
    """All but the last tenth, rounded down, and the last tenth."""
    size = int(0.1 * len(rows))
    return rows[: len(rows) - size], rows[len(rows) - size :]
