"""One call that measures a flow, and the report it returns."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import cast

import torch
from flow_solvers import SolverError
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.blocks import FixedPointBlock
from flow_core.bounds import Bounds, composed
from flow_core.combinators import Invert
from flow_core.context import Context
from flow_core.diagnostics.checks import LogDetCheck, RoundTrip, log_det_check, round_trip
from flow_core.diagnostics.plain import plain
from flow_core.distributions import Flow
from flow_core.record import BlockSummary, record
from flow_core.settings import Settings


@dataclass(frozen=True)
class Diagnostics:
    """Figures of one flow on one batch.

    Attributes:
        samples: Size of the batch.
        round_trip: Inversion error by precision; missing where a solve failed.
        transform: Solver effort and log-determinant error per block in the forward direction.
        inverse: The same in the inverse direction.
        bounds: Certified bounds per block.
        stretch: Product of the blocks' bounds forward: certified Lipschitz constant of their part
            of the model.
        inverse_stretch: The same of the inverse.
        log_det: Log-determinants against exact ones on a subset; None where it was left out.
        failures: What could not be measured, and why.
    """

    samples: int
    round_trip: dict[str, RoundTrip]
    transform: dict[str, BlockSummary]
    inverse: dict[str, BlockSummary]
    bounds: dict[str, Bounds]
    stretch: float
    inverse_stretch: float
    log_det: LogDetCheck | None
    failures: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain containers for JSON; infinity and NaN, which JSON lacks, become None."""
        return cast(dict[str, object], plain(asdict(self)))

    def to_json(self) -> str:
        """The figures as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        lines = [f"{self.samples} samples"]
        for dtype, error in self.round_trip.items():
            lines.append(
                f"round trip {dtype}: max |x' - x| {error.max_error:.2e}, rms {error.rms_error:.2e}"
            )
        lines += _effort_lines("transform", self.transform, self.bounds)
        lines += _effort_lines("inverse", self.inverse, self.bounds)
        lines += _log_det_lines("transform", self.transform)
        lines += _log_det_lines("inverse", self.inverse)
        for name, bound in self.bounds.items():
            maps = ", ".join(f"{value:.4f}" for value in bound.maps)
            lines.append(
                f"bound {name or 'model'}: Lip(G) <= {maps}; block <= {bound.transform:.4g}, "
                f"inverse <= {bound.inverse:.4g}"
            )
        if self.bounds:
            lines.append(
                f"all blocks: <= {self.stretch:.4g}, inverse <= {self.inverse_stretch:.4g}"
            )
        if self.log_det is not None:
            check = self.log_det
            lines.append(
                f"log-det of {check.samples} samples: {check.reported:.6f} reported, "
                f"{check.exact:.6f} exact, largest difference {check.max_difference:.2e} nats"
            )
        return "\n".join([*lines, *(f"failed: {failure}" for failure in self.failures)])


def diagnose(
    model: Bijection | Flow,
    x: Float[Tensor, " batch *shape"],
    context: Context = None,
    *,
    exact_samples: int = 8,
    chunk: int | None = None,
    using: Settings | None = None,
) -> Diagnostics:
    """Measure inversion, solver effort, certified bounds and log-determinants.

    Everything runs in evaluation mode; the model is left as it was. A solve that fails is reported
    and not raised.

    Args:
        model: A bijection or a flow; of `Dequantized`, its flow.
        x: A batch of data, as the bijection takes it.
        context: First dimension the batch.
        exact_samples: Size of the subset with dense Jacobians, which cost one pass per dimension;
            0 leaves them out.
        chunk: Rows of the Jacobians per pass; all of them by default.
        using: What the calls do their work with.

    Raises:
        ValueError: If `exact_samples` is negative.
    """
    if exact_samples < 0:
        raise ValueError(f"expected exact_samples of at least 0, got {exact_samples}")
    bijection = model.bijection if isinstance(model, Flow) else model
    failures: list[str] = []
    with _evaluation(bijection):
        trips = _round_trips(bijection, x, context, using, failures)
        transform, inverse = _efforts(bijection, x, context, using, failures)
        check = None
        if exact_samples:
            some = None if context is None else context[:exact_samples]
            with _reported("log-det", failures):
                check = log_det_check(bijection, x[:exact_samples], some, chunk=chunk, using=using)
        bounds = block_bounds(bijection)
    whole = composed(bounds.values())
    return Diagnostics(
        samples=x.shape[0],
        round_trip=trips,
        transform=transform,
        inverse=inverse,
        bounds=bounds,
        stretch=whole.transform,
        inverse_stretch=whole.inverse,
        log_det=check,
        failures=tuple(failures),
    )


def _round_trips(
    bijection: Bijection,
    x: Tensor,
    context: Context,
    using: Settings | None,
    failures: list[str],
) -> dict[str, RoundTrip]:
    trips: dict[str, RoundTrip] = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        with _reported(f"round trip {name}", failures):
            trips[name] = round_trip(bijection, x, context, dtype=dtype, using=using)
    return trips


def _efforts(
    bijection: Bijection,
    x: Tensor,
    context: Context,
    using: Settings | None,
    failures: list[str],
) -> tuple[dict[str, BlockSummary], dict[str, BlockSummary]]:
    """What one pass in each direction costs, log-determinants included."""
    with torch.no_grad(), record(bijection) as there, _reported("transform", failures):
        x, _ = bijection(x, context=context, using=using)
    with torch.no_grad(), record(bijection) as back, _reported("inverse", failures):
        bijection.inverse_and_log_det(x, context=context, using=using)
    return there.summary(), back.summary()


def block_bounds(model: nn.Module) -> dict[str, Bounds]:
    """Bi-Lipschitz bounds of every use of a fixed-point block, by module name.

    Inside `Invert` they are exchanged. The products over the blocks bound how far the blocks of a
    model stretch its input and its output. Source: Behrmann et al. 2021 (Understanding and
    mitigating exploding inverses), table 1.
    """
    uses = list(_blocks(model))
    bounds = {block: block.bounds() for block in dict.fromkeys(block for _, block, _ in uses)}
    return {
        name: bounds[block].swapped() if inverted else bounds[block]
        for name, block, inverted in uses
    }


def _blocks(model: nn.Module) -> Iterator[tuple[str, FixedPointBlock, bool]]:
    """Every use of a block, with its name and whether it is used backwards."""
    uses = list(model.named_modules(remove_duplicate=False))
    inverts = [f"{name}." if name else "" for name, module in uses if isinstance(module, Invert)]
    for name, module in uses:
        if isinstance(module, FixedPointBlock):
            yield name, module, sum(name.startswith(outer) for outer in inverts) % 2 == 1


@contextmanager
def _reported(what: str, failures: list[str]) -> Generator[None]:
    """Note a failed solve and go on."""
    try:
        yield
    except SolverError as error:
        failures.append(f"{what}: {error}")


@contextmanager
def _evaluation(model: nn.Module) -> Generator[None]:
    """Evaluation mode, and every module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _effort_lines(
    direction: str, blocks: dict[str, BlockSummary], bounds: dict[str, Bounds]
) -> list[str]:
    return [
        f"{direction} {name or 'model'}: {block.evaluations:.1f} evaluations a sample "
        f"(largest {block.max_evaluations}), residual {block.residual:.1e}, at most "
        f"{bounds[name].distance(block.residual):.1e} from the solution, {block.failures} failures"
        for name, block in blocks.items()
        if block.solves
    ]


def _log_det_lines(direction: str, blocks: dict[str, BlockSummary]) -> list[str]:
    """Of log-determinants that are estimates."""
    lines: list[str] = []
    for name, block in blocks.items():
        error, bias = block.log_det_error, block.log_det_bias
        parts = [] if error is None else [f"standard error {error:.2g} nats a sample"]
        parts += [] if bias is None else [f"bias of the quadrature at most about {bias:.1g} nats"]
        if parts:
            lines.append(f"log-det {direction} {name or 'model'}: {', '.join(parts)}")
    return lines
