"""Inverse convolution and CPila on the device at hand, as ratios taken in the same run.

    python benchmarks/kernels.py [--quick] [--device cpu|cuda] [--threads 1] [--out FILE]

Inverse convolution: milliseconds of the forward pass, of forward and backward together, and of

* `convolution`: the plain convolution of the same shape, in float32 as exact as the solve, the
  better of both memory layouts; `default convolution`, only on a GPU, is as torch runs it unasked,
  in tf32;
* `copy`: a copy that reads and writes as many bytes as the images and the result have;
* `row solve`: row after row, torch.linalg.solve_triangular with the operator of a whole row;
* `per diagonal`: one launch for every anti-diagonal and channel, as the published code has it.

`error` is the largest relative error of T z - x. CPila: gigabytes a second of reading the inputs
and writing the results once, in the forward and in the backward pass, each beside a copy of as many
bytes. On the CPU times are CPU milliseconds, the variants take turns; on a GPU a CUDA graph of the
whole operation is replayed.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from flow_kernels import cpila, inverse_conv2d, padded_conv2d
from flow_solvers.precision import exact_float32
from torch import Tensor
from torch.nn.functional import conv2d, pad

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Cell, Row, cpu_milliseconds, machine, parser, print_table, write_json

Task = Callable[[], object]
Shape = tuple[int, int, int, int]
Activation = tuple[tuple[int, ...], torch.dtype, torch.memory_format]

CPU_SHAPES: tuple[Shape, ...] = ((32, 48, 16, 3), (32, 12, 16, 3), (32, 24, 16, 3), (32, 12, 32, 3))
GPU_SHAPES: tuple[Shape, ...] = ((128, 48, 16, 3), (64, 12, 64, 3), (128, 12, 32, 3))
LAYOUTS = {torch.contiguous_format: "", torch.channels_last: "channels last"}
CPU_INPUTS: tuple[Activation, ...] = (
    ((1024, 64), torch.float32, torch.contiguous_format),
    ((16384, 64), torch.float32, torch.contiguous_format),
)
# All but the first are 256 MiB.
GPU_INPUTS: tuple[Activation, ...] = (
    ((16384, 64), torch.float32, torch.contiguous_format),
    ((2**20, 64), torch.float32, torch.contiguous_format),
    ((1024, 64, 32, 32), torch.float32, torch.contiguous_format),
    ((1024, 64, 32, 32), torch.float32, torch.channels_last),
    ((2048, 64, 32, 32), torch.bfloat16, torch.contiguous_format),
    ((512, 64, 32, 32), torch.float64, torch.contiguous_format),
    # Odd rows, which no two neighbours can be read from together.
    ((2**16, 1023), torch.float32, torch.contiguous_format),
)
TAP_SCALE = 0.5
REPLAYS = 20


def problem(shape: Shape, device: str) -> tuple[Tensor, Tensor]:
    """Images and a kernel with taps of that scale."""
    batch, channels, size, k = shape
    g = torch.Generator().manual_seed(0)
    weight = (
        TAP_SCALE / (k * math.sqrt(channels)) * torch.randn(channels, channels, k, k, generator=g)
    )
    return torch.randn(batch, channels, size, size, generator=g).to(device), weight.to(device)


def corner_fixed(weight: Tensor) -> Tensor:
    """The kernel with its last tap unit lower triangular."""
    kernel = weight.clone()
    unit = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    kernel[:, :, -1, -1] = kernel[:, :, -1, -1].tril(-1) + unit
    return kernel


def row_operators(kernel: Tensor, width: int) -> list[Tensor]:
    """What a row of z contributes to the row of x as far below, as matrices of side width·C."""
    channels, _, height, reach = kernel.shape
    operators: list[Tensor] = []
    for up in range(height):
        matrix = kernel.new_zeros(width, channels, width, channels)
        for w in range(width):
            for left in range(min(reach, w + 1)):
                matrix[w, :, w - left] = kernel[:, :, height - 1 - up, reach - 1 - left]
        operators.append(matrix.view(width * channels, -1))
    return operators


def row_solve(x: Tensor, kernel: Tensor) -> Task:
    """Row after row with the triangular operator of a row."""
    batch, channels, height, width = x.shape
    operators = row_operators(kernel, width)
    rows = x.permute(2, 3, 1, 0).reshape(height, width * channels, batch)

    def run() -> list[Tensor]:
        z: list[Tensor] = []
        for h in range(height):
            rest = rows[h]
            for up in range(1, min(len(operators), h + 1)):
                rest = rest - operators[up] @ z[h - up]
            z.append(torch.linalg.solve_triangular(operators[0], rest, upper=False))
        return z

    return run


def per_diagonal(x: Tensor, kernel: Tensor) -> Task:
    """One launch for every anti-diagonal and channel; what they index with is on the device."""
    channels, _, kh, kw = kernel.shape
    taps = kernel.clone()
    # The pixel itself still holds x, whose own channel enters with the factor one.
    taps[:, :, -1, -1].fill_diagonal_(0)
    diagonals = [_diagonal(x, d, (kh, kw)) for d in range(sum(x.shape[2:]) - 1)]

    def run() -> Tensor:
        z = pad(x, (kw - 1, 0, kh - 1, 0))
        for (rows, columns), own in diagonals:
            for c in range(channels):
                seen = z[:, :, rows, columns].movedim(2, 1).flatten(2)
                z[:, c, *own] -= seen @ taps[c].flatten()
        return z

    return run


Places = tuple[Tensor, Tensor]


def _diagonal(x: Tensor, d: int, size: tuple[int, int]) -> tuple[Places, Places]:
    """In the padded image: what every pixel of an anti-diagonal sees, and the pixel itself."""
    (height, width), (kh, kw) = x.shape[2:], size
    h = torch.arange(max(0, d - width + 1), min(height - 1, d) + 1, device=x.device)
    offsets = [torch.arange(n, device=x.device) for n in size]
    up, left = (t.flatten() for t in torch.meshgrid(offsets, indexing="ij"))
    w = d - h
    return (h[:, None] + up, w[:, None] + left), (h + kh - 1, w + kw - 1)


def forward_backward(x: Tensor, weight: Tensor) -> Task:
    """The operation and its gradients by images and kernel."""
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(inverse_conv2d(*leaves), leaves, x)

    return run


def tasks(shape: Shape, device: str, *, quick: bool) -> dict[str, Task]:
    """What takes turns."""
    x, weight = problem(shape, device)
    kernel, last = corner_fixed(weight), x.to(memory_format=torch.channels_last)
    k = shape[3]

    def convolution() -> Tensor:
        return conv2d(x, kernel, padding=k // 2)

    def convolution_last() -> Tensor:
        return conv2d(last, kernel, padding=k // 2)

    table: dict[str, Task] = {
        "forward": lambda: inverse_conv2d(x, weight),
        "forward + backward": forward_backward(x, weight),
        "convolution": exactly(convolution),
        "convolution, channels last": exactly(convolution_last),
        "copy": copy_of(2 * x.numel(), x),
    }
    if device != "cpu":
        table["default convolution"] = convolution
        table["default convolution, channels last"] = convolution_last
    if not quick:
        table["row solve"] = row_solve(x, kernel)
        table["per diagonal"] = per_diagonal(x, kernel)
    return table


def exactly(task: Task) -> Task:
    """The task in float32, never in tf32."""

    def run() -> object:
        with exact_float32():
            return task()

    return run


def graph_milliseconds(functions: Mapping[str, Task], rounds: int) -> dict[str, float]:
    """Median device time of a call, by replaying a CUDA graph of it."""
    graphs = {name: _graph(function) for name, function in functions.items()}
    turns: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, graph in graphs.items():
            turns[name].append(_replay(graph))
    return {name: statistics.median(values) for name, values in turns.items()}


def _graph(function: Task) -> torch.cuda.CUDAGraph:
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call] # torch has no types here
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / REPLAYS


def milliseconds(functions: Mapping[str, Task], device: str, rounds: int) -> dict[str, float]:
    """Median time of a call of each."""
    if device != "cpu":
        return graph_milliseconds(functions, rounds)
    cpu_milliseconds(functions, 2)
    return cpu_milliseconds(functions, rounds)


def inverse_conv_row(shape: Shape, arguments: argparse.Namespace) -> Row:
    """One shape."""
    device: str = arguments.device
    times = milliseconds(tasks(shape, device, quick=arguments.quick), device, arguments.rounds)
    x, weight = problem(shape, device)
    error = (padded_conv2d(inverse_conv2d(x, weight), weight) - x).abs().max() / x.abs().max()
    for name in ("convolution", "default convolution"):
        if name in times:
            times[name] = min(times[name], times[f"{name}, channels last"])
    plain = times["convolution"]
    names = "default convolution", "row solve", "per diagonal"
    others: dict[str, Cell] = {name: times[name] for name in names if name in times}
    batch, channels, size, k = shape
    return {
        "shape": f"B{batch} C{channels} {size}² k{k}",
        "forward": times["forward"],
        "copy": times["copy"],
        "convolution": plain,
        "forward : convolution": times["forward"] / plain,
        "with backward : forward": times["forward + backward"] / times["forward"],
        "µs per diagonal": 1e3 * times["forward"] / (2 * size - 1),
        **others,
        "error": float(error),
    }


def copy_of(numbers: int, like: Tensor) -> Task:
    """A copy that reads and writes that many numbers in all."""
    source, target = like.new_empty(2, numbers // 2)
    return lambda: target.copy_(source)


def cpila_row(case: Activation, arguments: argparse.Namespace) -> Row:
    """Bandwidths for one input, whose channels are doubled."""
    shape, dtype, memory_format = case
    x = torch.randn(shape, device=arguments.device, dtype=dtype).to(memory_format=memory_format)
    leaf, along = x.clone().requires_grad_(), torch.randn_like(torch.cat((x, x), 1))
    numbers = {"forward": 3 * x.numel(), "backward": 4 * x.numel()}
    functions: dict[str, Task] = {
        "forward": lambda: cpila(x, 1),
        "both": lambda: torch.autograd.grad(cpila(leaf, 1), leaf, along),
        **{f"{name} copy": copy_of(n, x) for name, n in numbers.items()},
    }
    times = milliseconds(functions, arguments.device, arguments.rounds)
    times["backward"] = times["both"] - times["forward"]
    row: dict[str, Cell] = {
        "input": f"{x.element_size() * x.numel() / 2**20:.4g} MiB",
        "shape": f"{tuple(shape)} {LAYOUTS[memory_format]}".strip(),
        "dtype": str(dtype).removeprefix("torch."),
    }
    for name, n in numbers.items():
        copy = times[f"{name} copy"]
        row[f"{name} GB/s"] = 1e-6 * x.element_size() * n / times[name]
        row[f"{name} : copy"] = copy / times[name]
        row[f"{name}'s copy GB/s"] = 1e-6 * x.element_size() * n / copy
    return row


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    on_cpu = arguments.device == "cpu"
    if not on_cpu:
        torch.cuda.set_device(torch.device(arguments.device).index or 0)
    print(machine(), flush=True)
    shapes = CPU_SHAPES if on_cpu else GPU_SHAPES
    rows = [inverse_conv_row(s, arguments) for s in (shapes[:2] if arguments.quick else shapes)]
    print_table("Inverse convolution, ms; convolution exact in float32, unless default", rows)
    bandwidths = [cpila_row(case, arguments) for case in (CPU_INPUTS if on_cpu else GPU_INPUTS)]
    print_table("CPila", bandwidths)
    write_json(arguments.out, {"inverse convolution": rows, "cpila": bandwidths})


if __name__ == "__main__":
    main()
