"""Pila with its derivatives, and how fast the curves of CPila and CLipSwish are.

    python benchmarks/activations.py [--quick] [--out FILE] [--figure FILE.png]

Fig. 2 of Ahn et al. 2022 (Monotone Flows). An activation that makes two numbers of one draws a
curve in the plane; its speed is the norm of its derivative, and the supremum of the speed the
Lipschitz constant of the activation: the closer the speed is to 1 everywhere, the less of a
gradient is lost. Extrema are those of a grid in float64 on [-8, 8], by steps of 1e-5 (1e-4 with
--quick), `at` the first place that has them; `expected` is what is known of the published code, and
the script fails where a value differs from it by more than half of its last digit.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from flow_apps.figures.canvas import new_figure, save_figure
from flow_core.lipschitz import Activation, CLipSwish, CPila
from flow_kernels import pila, pila_curvature, pila_slope
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json

CURVES: dict[str, Activation] = {"CPila": CPila().double(), "CLipSwish": CLipSwish().double()}


class Extremum(NamedTuple):
    """Largest or smallest value of a function, and what it should be: digits as text, or none."""

    name: str
    function: Callable[[Tensor], Tensor]
    largest: bool
    expected: str = ""


@torch.no_grad()
def speed(activation: Activation, x: Tensor) -> Tensor:
    """Norm of the derivative of every curve point, for numbers x of shape (count,)."""
    _, slopes = activation.value_and_slope(x.unsqueeze(1), 1)
    found: Tensor = torch.linalg.vector_norm(slopes, dim=1)
    return found


def speed_of(name: str) -> Callable[[Tensor], Tensor]:
    """The speed of one of the curves as a function of x."""
    return lambda x: speed(CURVES[name], x)


EXTREMA = (
    Extremum("Pila, smallest value", pila, False, "-0.2742"),
    Extremum("Pila, smallest slope", pila_slope, False, "-0.348"),
    Extremum("Pila, largest slope", pila_slope, True, "1"),
    Extremum("Pila, smallest second derivative", pila_curvature, False),
    Extremum("Pila, largest second derivative", pila_curvature, True),
    Extremum("CPila, smallest speed", speed_of("CPila"), False, "0.943396"),
    Extremum("CPila, largest speed", speed_of("CPila"), True, "0.998888"),
    Extremum("CLipSwish, smallest speed", speed_of("CLipSwish"), False, "0.640"),
    Extremum("CLipSwish, largest speed", speed_of("CLipSwish"), True, "0.9999652"),
)


def row(extremum: Extremum, x: Tensor) -> Row:
    """The extremum on a grid.

    Raises:
        ValueError: If it is not what it should be.
    """
    values = extremum.function(x)
    place = int(values.argmax() if extremum.largest else values.argmin())
    value, expected = float(values[place]), extremum.expected
    if expected and abs(value - float(expected)) > half_of_last_digit(expected):
        raise ValueError(f"{extremum.name}: expected {expected}, got {value}")
    return {
        "extremum": extremum.name,
        "value": f"{value:.7f}",
        "at": f"{round(float(x[place]), 4) + 0.0:.4f}",
        "expected": expected,
    }


def half_of_last_digit(number: str) -> float:
    """Half a unit of the last digit that is written: what rounding takes away."""
    return 0.5 * 10.0 ** -len(number.partition(".")[2])


def constants(x: Tensor) -> list[Row]:
    """The Lipschitz constants that layers count with, and the largest speeds below them.

    Raises:
        ValueError: If a curve is faster than its constant.
    """
    rows = list[Row]()
    for name, activation in CURVES.items():
        largest = float(speed(activation, x).max())
        if largest > activation.lipschitz:
            raise ValueError(f"{name}: speed {largest} is above {activation.lipschitz}")
        above = activation.lipschitz - largest
        constant = f"{activation.lipschitz:.9f}"
        rows.append({"curve": name, "constant": constant, "above the largest speed by": above})
    return rows


def draw(path: Path) -> None:
    """Pila and its derivatives on the left, speeds with their suprema on the right."""
    figure = new_figure(9.0, 3.4)
    left, right = figure.subplots(1, 2)
    x = torch.linspace(-1.6, 0.8, 1201, dtype=torch.float64)
    functions = {"Pila": pila, "derivative": pila_slope, "second derivative": pila_curvature}
    for name, function in functions.items():
        left.plot(x.numpy(), function(x).numpy(), label=name)
    left.axhline(0, color="black", linewidth=0.5)
    left.set_title("Pila and its derivatives")
    x = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    for name, activation in CURVES.items():
        found = speed(activation, x)
        largest = float(found.max())
        (line,) = right.plot(x.numpy(), found.numpy(), label=f"{name}, sup {largest:.6f}")
        right.axhline(largest, color=line.get_color(), linestyle=":", linewidth=0.8)
    right.set_title("speed of the curve")
    right.set_ylim(0.45, 1.02)
    for axes, place in ((left, "upper left"), (right, "lower center")):
        axes.set_xlabel("x")
        axes.legend(loc=place)
    save_figure(figure, path)


def tables(step: float) -> dict[str, Sequence[Row]]:
    """Extrema and constants, checked."""
    x = torch.linspace(-8, 8, round(16 / step) + 1, dtype=torch.float64)
    return {"Extrema": [row(one, x) for one in EXTREMA], "Lipschitz constants": constants(x)}


def main() -> None:
    """Print the tables, write the JSON and draw the picture, where asked for."""
    options = parser(__doc__)
    options.add_argument("--figure", type=Path, help="draw the curves as PNG")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    found = tables(1e-4 if arguments.quick else 1e-5)
    for title, rows in found.items():
        print_table(title, rows)
    write_json(arguments.out, found)
    if arguments.figure is not None:
        draw(arguments.figure)


if __name__ == "__main__":
    main()
