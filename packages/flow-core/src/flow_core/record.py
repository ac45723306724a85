"""What solves and log-determinants cost and how good they were, per block.

Nothing is stored in modules and nothing is synchronised until a report is read.
"""

from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from flow_logdet import LogDet
from flow_solvers import Solution
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockSummary:
    """One block over everything that was recorded.

    Attributes:
        solves: Number of batched solves.
        evaluations: Mean evaluations of G per sample and solve.
        max_evaluations: Largest number of batched evaluations in one solve.
        residual: Largest root-mean-square residual of any sample.
        failures: Samples that did not meet their tolerance.
        log_det_error: Mean standard error of the log-determinant in nats, or None.
        products: Products with J in the last log-determinant.
        growth: Largest max|z|/max|x| of a sample in an inverse convolution, or None.
    """

    solves: int
    evaluations: float
    max_evaluations: int
    residual: float
    failures: int
    log_det_error: float | None
    products: int
    growth: float | None


@dataclass
class Report:
    """Everything that blocks posted while the report was open."""

    names: dict[int, str] = field(default_factory=dict[int, str])
    solutions: dict[str, list[Solution]] = field(
        default_factory=lambda: defaultdict[str, list[Solution]](list)
    )
    log_dets: dict[str, list[tuple[Tensor | None, int]]] = field(
        default_factory=lambda: defaultdict[str, list[tuple[Tensor | None, int]]](list)
    )
    growths: dict[str, list[Tensor]] = field(
        default_factory=lambda: defaultdict[str, list[Tensor]](list)
    )

    def summary(self) -> dict[str, BlockSummary]:
        """The figures per block name; this reads from the device."""
        names = dict.fromkeys([*self.solutions, *self.log_dets, *self.growths])
        return {name: self._block(name) for name in names}

    def _block(self, name: str) -> BlockSummary:
        solutions = self.solutions.get(name, [])
        log_dets = self.log_dets.get(name, [])
        errors = [error.mean() for error, _ in log_dets if error is not None]
        counts = [s.evaluations.double().mean() for s in solutions if s.evaluations.numel()]
        growths = self.growths.get(name, [])
        residuals = [s.residual.max() for s in solutions if s.residual.numel()]
        return BlockSummary(
            solves=len(solutions),
            evaluations=float(torch.stack(counts).mean()) if counts else 0.0,
            max_evaluations=max((s.calls for s in solutions), default=0),
            residual=float(torch.stack(residuals).max()) if residuals else 0.0,
            failures=sum(int((~s.converged).sum()) for s in solutions),
            log_det_error=float(torch.stack(errors).mean()) if errors else None,
            products=log_dets[-1][1] if log_dets else 0,
            growth=float(torch.stack(growths).max()) if growths else None,
        )

    def name_of(self, block: nn.Module) -> str:
        """The module name of a block, or its kind with a number."""
        return self.names.setdefault(id(block), f"{type(block).__name__}#{len(self.names)}")


_OPEN: ContextVar[tuple[Report, ...]] = ContextVar("flow_core.record", default=())


@contextmanager
def record(model: nn.Module | None = None) -> Generator[Report]:
    """Collect solver effort and log-determinant errors of every block used inside.

    Args:
        model: Gives the blocks their module names; without it they are numbered as they appear.
    """
    names = {} if model is None else {id(m): n for n, m in model.named_modules()}
    report = Report(names=names)
    token = _OPEN.set((*_OPEN.get(), report))
    try:
        yield report
    finally:
        _OPEN.reset(token)


def post_solution(block: nn.Module, solution: Solution) -> None:
    """Add a solve of `block` to every open report."""
    for report in _OPEN.get():
        report.solutions[report.name_of(block)].append(_detached(solution))


def post_log_det(block: nn.Module, log_det: LogDet) -> None:
    """Add a log-determinant of `block` to every open report."""
    for report in _OPEN.get():
        error = log_det.standard_error
        entry = (None if error is None else error.detach(), log_det.products)
        report.log_dets[report.name_of(block)].append(entry)


def post_growth(layer: nn.Module, x: Tensor, z: Tensor) -> None:
    """Add the growth from x to z in `layer` to every open report."""
    reports = _OPEN.get()
    if not reports or not x.numel():
        return
    before, after = (t.detach().flatten(1).abs().amax(1) for t in (x, z))
    # A sample of zeros stays one, and has not grown.
    growth = (after / before.clamp(min=torch.finfo(x.dtype).tiny)).max()
    for report in reports:
        report.growths[report.name_of(layer)].append(growth)


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
