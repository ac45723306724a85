"""What solves and log-determinants cost and how good they were, per block.

Nothing is stored in modules and nothing is synchronised until a report is read.
"""

from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch
from flow_logdet import LogDet
from flow_solvers import DerivativeListener, LinearSolution, Solution, derivative_error
from flow_solvers.precision import in_float64
from torch import Tensor, nn

from flow_core.breakage import Breakage


@dataclass(frozen=True)
class BlockSummary:
    """One block over everything that was recorded.

    Attributes:
        solves: Number of batched solves.
        evaluations: Mean evaluations of G per sample and solve.
        max_evaluations: Largest number of batched evaluations in one solve.
        residual: Largest root-mean-square residual of any sample.
        failures: Samples that did not meet their tolerance.
        derivative_failures: Samples of linear solves in backward passes that did not.
        log_det_error: Standard error of the log-determinant of a sample in nats, root mean square
            over all samples: twice it on either side holds 95 % of the truths, however few the
            probes of each. None without several probes.
        log_det_bias: Mean over all samples of about the largest bias in nats, see
            `flow_logdet.LogDet`; None where it is unknown or zero.
        products: Products with J in the last log-determinant.
        growth: Largest max|z|/max|x| of a sample in an inverse convolution, or None.
    """

    solves: int
    evaluations: float
    max_evaluations: int
    residual: float
    failures: int
    derivative_failures: int
    log_det_error: float | None
    log_det_bias: float | None
    products: int
    growth: float | None


@dataclass
class Report:
    """Everything that blocks posted while the report was open, and in its backward passes.

    Attributes:
        defers: Whether failed derivatives of blocks that raise are kept here and not raised.
        breakage: Samples of flows that are not finite, also those that were drawn again.
    """

    defers: bool = False
    breakage: Breakage = field(default_factory=Breakage)
    names: dict[int, str] = field(default_factory=dict[int, str])
    solutions: dict[str, list[Solution]] = field(
        default_factory=lambda: defaultdict[str, list[Solution]](list)
    )
    log_dets: dict[str, list[LogDet]] = field(
        default_factory=lambda: defaultdict[str, list[LogDet]](list)
    )
    growths: dict[str, list[Tensor]] = field(
        default_factory=lambda: defaultdict[str, list[Tensor]](list)
    )
    derivatives: dict[str, list[LinearSolution]] = field(
        default_factory=lambda: defaultdict[str, list[LinearSolution]](list)
    )
    deferred: list[tuple[str, LinearSolution]] = field(
        default_factory=list[tuple[str, LinearSolution]]
    )

    def summary(self) -> dict[str, BlockSummary]:
        """The figures per block name; this reads from the device."""
        names = dict.fromkeys([*self.solutions, *self.log_dets, *self.growths])
        return {name: self._block(name) for name in names}

    def raise_deferred(self) -> None:
        """Raise for the first derivative that was not solved; this reads from the device.

        Raises:
            SolverError: With a note that names the block.
        """
        for name, solution in self.deferred:
            if not solution.solvable:
                error = derivative_error(solution)
                error.add_note(f"in layer {name}")
                raise error

    def _block(self, name: str) -> BlockSummary:
        solutions = self.solutions.get(name, [])
        log_dets = self.log_dets.get(name, [])
        variances = [d.standard_error.square() for d in log_dets if d.standard_error is not None]
        counts = [in_float64(s.evaluations).mean() for s in solutions if s.evaluations.numel()]
        growths = self.growths.get(name, [])
        residuals = [s.residual.max() for s in solutions if s.residual.numel()]
        return BlockSummary(
            solves=len(solutions),
            evaluations=float(torch.stack(counts).mean()) if counts else 0.0,
            max_evaluations=max((s.calls for s in solutions), default=0),
            residual=float(torch.stack(residuals).max()) if residuals else 0.0,
            failures=sum(int((~s.converged).sum()) for s in solutions),
            derivative_failures=sum(s.unsolved for s in self.derivatives.get(name, [])),
            log_det_error=None if (variance := _mean(variances)) is None else variance**0.5,
            log_det_bias=_mean([d.bias for d in log_dets if d.bias is not None]),
            products=log_dets[-1].products if log_dets else 0,
            growth=float(torch.stack(growths).max()) if growths else None,
        )

    def name_of(self, block: nn.Module) -> str:
        """The module name of a block, or its kind with a number."""
        return self.names.setdefault(id(block), f"{type(block).__name__}#{len(self.names)}")


_OPEN: ContextVar[tuple[Report, ...]] = ContextVar("flow_core.record", default=())


def open_reports() -> tuple[Report, ...]:
    """The reports that are open now; the outermost call of a pass asks once."""
    return _OPEN.get()


@contextmanager
def record(model: nn.Module | None = None, *, defer: bool = False) -> Generator[Report]:
    """Collect solver effort and log-determinant errors of every block used inside.

    What is computed again in a backward pass, for checkpoints, is not told again, and compiled code
    tells nothing.

    Args:
        model: Gives the blocks their module names; without it they are numbered as they appear.
        defer: Let backward passes of what is computed inside come to their end, although
            derivatives may fail: `Report.raise_deferred` raises for them, with the block's name.
            For processes that wait for each other's gradients.
    """
    names = {} if model is None else {id(m): n for n, m in model.named_modules()}
    report = Report(defers=defer, names=names)
    token = _OPEN.set((*_OPEN.get(), report))
    try:
        yield report
    finally:
        _OPEN.reset(token)


def post_solution(reports: Sequence[Report], block: nn.Module, solution: Solution) -> None:
    """Add a solve of `block` to reports."""
    for report in _told(reports):
        report.solutions[report.name_of(block)].append(_detached(solution))


def derivative_listener(
    reports: Sequence[Report], block: nn.Module, *, raises: bool
) -> DerivativeListener | None:
    """What posts derivatives of a solve to reports, in any thread.

    Args:
        reports: Those that are told.
        block: Whose solve it is.
        raises: Whether failures are raised if no report defers them.
    """
    if not reports:
        return None

    def listen(solution: LinearSolution) -> bool:
        """Tell the reports, and say whether the failures are dealt with."""
        figures = replace(solution, value=solution.value.new_empty(len(solution.value), 0))
        deferring = [report for report in reports if report.defers]
        for report in reports:
            report.derivatives[report.name_of(block)].append(figures)
        for report in deferring if raises else ():
            report.deferred.append((report.name_of(block), figures))
        return bool(deferring) or not raises

    return listen


def post_log_det(reports: Sequence[Report], block: nn.Module, log_det: LogDet) -> None:
    """Add a log-determinant of `block` to reports."""
    for report in _told(reports):
        report.log_dets[report.name_of(block)].append(_figures(log_det))


def post_growth(reports: Sequence[Report], layer: nn.Module, x: Tensor, z: Tensor) -> None:
    """Add the growth from x to z in `layer` to reports."""
    told = _told(reports) if x.numel() else ()
    if not told:
        return
    before, after = (t.detach().flatten(1).abs().amax(1) for t in (x, z))
    # A sample of zeros stays one, and has not grown.
    growth = (after / before.clamp(min=torch.finfo(x.dtype).tiny)).max()
    for report in told:
        report.growths[report.name_of(layer)].append(growth)


def _told(reports: Sequence[Report]) -> Sequence[Report]:
    """None of them inside a backward pass, which only computes again what was told before."""
    return () if reports and _in_backward() else reports


def _in_backward() -> bool:
    # No public name; torch.utils.checkpoint asks the same way.
    return torch._C._current_graph_task_id() != -1  # pyright: ignore[reportPrivateUsage]


def _detached(solution: Solution) -> Solution:
    """Keep the figures of a solve, not its graph or its value."""
    empty = solution.value.detach().new_empty(solution.value.shape[0], 0)
    return Solution(
        value=empty,
        residual=solution.residual.detach(),
        evaluations=solution.evaluations,
        status=solution.status,
        error_bound=solution.error_bound,
        calls=solution.calls,
    )


def _figures(log_det: LogDet) -> LogDet:
    """A log-determinant without its graph."""
    error, bias = log_det.standard_error, log_det.bias
    return LogDet(
        value=log_det.value.detach(),
        standard_error=None if error is None else error.detach(),
        products=log_det.products,
        bias=None if bias is None else bias.detach(),
    )


def _mean(figures: list[Tensor]) -> float | None:
    """Over all samples; None without any."""
    samples = [in_float64(one) for one in figures if one.numel()]
    return float(torch.cat(samples).mean()) if samples else None
