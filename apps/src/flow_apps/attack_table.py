"""Attacks on several runs beside each other, a row each."""

import math
from collections.abc import Mapping

from flow_core.diagnostics import InverseAttack
from flow_core.diagnostics.stability.reconstruction import finite_errors

_HEADINGS = (
    "run",
    "before",
    "after",
    "largest",
    "NaN",
    "Inf",
    "first",
    "Lip(inverse)",
    "residual",
    "rounding",
    "bound",
    "largest/bound",
)


def rows_of(found: Mapping[str, InverseAttack]) -> dict[str, object]:
    """What a table of runs tells, by their names; what is not known is None."""
    return {name: _row(attack) for name, attack in found.items()}


def table_of(found: Mapping[str, InverseAttack]) -> str:
    """L2 errors before and after, what broke, and the bounds, in columns.

    `before` and `after` are means of the finite errors, `largest` is of every attack that stayed
    finite, `first` the first step at which a sample broke.
    """
    cells = [_HEADINGS, *((name, *map(_cell, _row(a).values())) for name, a in found.items())]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def _row(attack: InverseAttack) -> dict[str, float | int | None]:
    last, bound = attack.course[-1], attack.bound
    proven = bound if bound is not None and bound.lipschitz < math.inf else None
    return {
        "before": finite_errors(attack.clean).mean,
        "after": last.mean,
        "largest": attack.largest.largest,
        "nan": last.nan,
        "inf": last.inf,
        "first_broken": attack.first_broken,
        "lipschitz": None if proven is None else proven.lipschitz,
        "residual": None if bound is None else bound.residual.largest,
        "rounding": None if bound is None else bound.rounding.largest,
        "bound": None if proven is None else proven.bounds.largest,
        "ratio": None if proven is None else proven.ratio.largest,
    }


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2e}"
