"""Restarted GMRES, batched, with a relative tolerance that every sample keeps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow_solvers import samples
from flow_solvers.arguments import require_integer, require_number
from flow_solvers.krylov.arnoldi import Matvec
from flow_solvers.krylov.process import OrthonormalRows, unit
from flow_solvers.linear import LinearSolution, Operator, relative_tolerance, rounding_floor
from flow_solvers.maps import Index
from flow_solvers.precision import in_float64
from flow_solvers.solution import Status

# The residual that the recurrence predicts differs from the true one by rounding, of a size near
# eps·|A||v|/2 and uncorrelated with it. Where that is not small against the tolerance, the residual
# is measured with one more product, and a further cycle aims lower to make room for it.
_MARGIN = 0.95
_NEGLIGIBLE = 0.3
_LOWEST_AIM = 0.4
# A cycle that leaves more than this share of the residual is not getting anywhere; near the
# rounding floor, where a cycle is a refinement, more is asked of it.
_LEAST_PROGRESS = 0.95
_LEAST_REFINEMENT = 0.5


@dataclass(frozen=True)
class Gmres:
    """GMRES(m), Saad and Schultz (1986).

    Attributes:
        restart: m, the largest basis; memory is (m + 1) vectors per sample.
        rtol: |g - A v| ≤ rtol·|g| for every sample; None: 1e-6 in float32, 1e-10 in float64.
        budget: Products with A, the ones that verify a residual included.

    Raises:
        ValueError: A setting is out of range.
    """

    restart: int = 50
    rtol: float | None = None
    budget: int = 300

    def __post_init__(self) -> None:
        _check(self.restart, self.budget)
        if self.rtol is not None:
            require_number("rtol", self.rtol)

    def solve(self, operator: Operator, rhs: Float[Tensor, " batch *shape"]) -> LinearSolution:
        """Solve A v = g; see `gmres`."""
        return gmres(
            operator,
            rhs,
            restart=self.restart,
            rtol=self.rtol,
            budget=self.budget,
            select=operator.select,
        )


@torch.no_grad()
def gmres(
    matvec: Matvec,
    rhs: Float[Tensor, " batch *shape"],
    *,
    restart: int = 50,
    rtol: float | None = None,
    budget: int = 300,
    select: Callable[[Index], Matvec] | None = None,
) -> LinearSolution:
    """Solve A v = g for every sample, from v = 0.

    Right-hand sides are scaled to unit length first, so that the number of products does not
    depend on their size. The residual that is returned is the combination of the products that
    were made; where rounding could make it differ from g - A v, it is measured with one more
    product, and a system that then misses the tolerance is refined. A zero right-hand side costs
    no product, one that is not finite gives NaN.

    Args:
        matvec: A times a tensor of the shape of `rhs`, sample by sample.
        rhs: g.
        restart: Largest basis.
        rtol: See `Gmres`.
        budget: Products.
        select: Gives A for a subset of the batch; later cycles then leave solved samples behind.

    Raises:
        ValueError: `restart` or `budget` is not positive.
    """
    _check(restart, budget)
    systems = _Systems(rhs, relative_tolerance(rtol, rhs))
    cover = torch.arange(rhs.shape[0], device=rhs.device)
    operator, used = matvec, 0
    while used + 1 < budget:
        active = systems.status[cover] == Status.BUDGET
        count = int(active.sum())
        if count == 0:
            break
        if select is not None and 2 * count <= cover.numel():
            cover, active = cover[active], active[active]
            operator = select(cover)
        used += systems.cycle(operator, cover, active, min(restart, budget - used - 1))
    return systems.solution()


def _check(restart: object, budget: object) -> None:
    require_integer("restart", restart, 1)
    # A product and its check.
    require_integer("budget", budget, 2)


class _Systems:
    """What is known of the systems of the whole batch, scaled to right-hand sides of length one."""

    def __init__(self, rhs: Float[Tensor, " batch *shape"], rtol: float) -> None:
        self.shape = rhs.shape
        self.rtol = rtol
        direction, self.scale = unit(samples.flat(rhs))
        self.finite = self.scale.isfinite()
        self.direction = torch.where(self.finite.unsqueeze(1), direction, 0)
        self.residual = self.direction.clone()
        self.value = torch.zeros_like(self.direction)
        self.noise = torch.zeros_like(self.scale)
        self.relative = torch.where(self.finite, (self.scale > 0).to(rhs.dtype), torch.nan)
        self.products = torch.zeros_like(self.scale, dtype=torch.int64)
        waiting = (self.relative > 0).to(torch.int64) * int(Status.BUDGET)
        self.status = torch.where(self.finite, waiting, int(Status.NONFINITE))

    def cycle(
        self,
        matvec: Matvec,
        cover: Int[Tensor, " covered"],
        active: Bool[Tensor, " covered"],
        steps: int,
    ) -> int:
        """Lower the residuals of the active samples in `cover`, then measure them.

        Returns:
            The products that it took.
        """
        rows = (cover.numel(), *self.shape[1:])
        start = torch.where(active.unsqueeze(1), self.residual[cover], 0)
        found = _minimise(matvec, start.reshape(rows), self._aim(cover), steps)
        value = self.value[cover] + found.correction
        length = found.size * samples.plain_norm(value)
        self.noise[cover] = torch.finfo(length.dtype).eps / 2 * length
        measured = bool((active & (self.noise[cover] > _NEGLIGIBLE * self.rtol)).any())
        residual = found.residual
        if measured:
            residual = self.direction[cover] - samples.flat(matvec(value.reshape(rows)))
        relative = samples.plain_norm(residual)
        self.products[cover] += found.widths + active * int(measured)
        self._judge(cover, active, relative, rounding_floor(length, self.rtol))
        self.value[cover], self.residual[cover] = value, residual
        self.relative[cover] = torch.where(active, relative, self.relative[cover])
        return found.calls + int(measured)

    def _aim(self, cover: Int[Tensor, " covered"]) -> Float[Tensor, " covered"]:
        share = (_MARGIN**2 - (self.noise[cover] / self.rtol).square()).clamp(min=_LOWEST_AIM**2)
        return self.rtol * share.sqrt()

    def _judge(
        self,
        cover: Int[Tensor, " covered"],
        active: Bool[Tensor, " covered"],
        relative: Float[Tensor, " covered"],
        floor: Float[Tensor, " covered"],
    ) -> None:
        before = self.relative[cover]
        refined = (relative <= floor) & (relative > _LEAST_REFINEMENT * before)
        solved = (relative <= self.rtol) | refined
        stuck = (relative <= _LEAST_PROGRESS * before).logical_not()
        verdict = torch.where(stuck, int(Status.STALLED), int(Status.BUDGET))
        verdict = torch.where(solved, int(Status.CONVERGED), verdict)
        self.status[cover] = torch.where(active, verdict, self.status[cover])

    def solution(self) -> LinearSolution:
        """The solution in the units of the right-hand side."""
        value = self.value * self.scale.unsqueeze(1)
        value = torch.where(self.finite.unsqueeze(1), value, torch.nan)
        return LinearSolution(value.reshape(self.shape), self.relative, self.products, self.status)


@dataclass(frozen=True)
class _Cycle:
    correction: Float[Tensor, " covered dim"]
    residual: Float[Tensor, " covered dim"]
    widths: Int[Tensor, " covered"]
    size: Float[Tensor, " covered"]
    calls: int


def _minimise(
    matvec: Matvec,
    start: Float[Tensor, " covered *shape"],
    target: Float[Tensor, " covered"],
    steps: int,
) -> _Cycle:
    """One Arnoldi cycle; a sample's space stops growing once its predicted residual is small.

    With q H = 0 and q₀ = 1 for the extended Hessenberg matrix H, the least residual over the space
    is |start| / |q|; q grows by one entry per step, so that no rotations are needed.
    """
    direction, length = unit(samples.flat(start))
    basis = OrthonormalRows(direction, min(steps, direction.shape[1]) + 1)
    small = in_float64(length)
    null = torch.ones_like(small).unsqueeze(1)
    columns: list[Tensor] = []
    live = small > 0
    widths = torch.zeros_like(small, dtype=torch.int64)
    while bool(live.any()) and len(columns) < min(steps, direction.shape[1]):
        image = samples.flat(matvec(basis.last.reshape(start.shape)))
        along, new, broke = (part.to(small.device) for part in basis.add(image))
        columns.append(torch.cat((along, new.unsqueeze(1)), dim=1).double())
        widths += live
        entry = -(null * along).sum(dim=1) / torch.where(broke, 1, new)
        null = torch.cat((null, entry.unsqueeze(1)), dim=1)
        predicted = small / torch.linalg.vector_norm(null, dim=1)
        live = live & ~broke & (predicted > target.to(small.device))
    hessenberg = _stack(columns, start.shape[0])
    weights = _least_squares(hessenberg, small, widths)
    left = -torch.bmm(hessenberg, weights.unsqueeze(2)).squeeze(2)
    left[:, 0] += small
    size = torch.linalg.vector_norm(hessenberg, dim=1).amax(dim=1).to(length)
    return _Cycle(
        _combine(weights, basis.rows[:, :-1]),
        _combine(left, basis.rows),
        widths.to(length.device),
        size,
        len(columns),
    )


def _combine(
    weights: Float[Tensor, " covered count"], rows: Float[Tensor, " covered count dim"]
) -> Float[Tensor, " covered dim"]:
    return torch.bmm(weights.to(rows).unsqueeze(1), rows).squeeze(1)


def _stack(columns: Sequence[Tensor], covered: int) -> Float[Tensor, " covered rows columns"]:
    """Columns of growing length as one matrix with zeros below."""
    matrix = columns[0].new_zeros(covered, len(columns) + 1, len(columns))
    for position, column in enumerate(columns):
        matrix[:, : position + 2, position] = column
    return matrix


def _least_squares(
    hessenberg: Float[Tensor, " covered rows columns"],
    length: Float[Tensor, " covered"],
    widths: Int[Tensor, " covered"],
) -> Float[Tensor, " covered columns"]:
    """y that minimises |length·e₁ - H y|, where a sample uses its first `widths` columns.

    A column that is not used becomes the unit vector below it, which is orthogonal to the used
    ones and to the right-hand side: its weight comes out zero.
    """
    _, rows, columns = hessenberg.shape
    idle = torch.arange(columns, device=widths.device) >= widths.unsqueeze(1)
    below = torch.eye(rows, dtype=hessenberg.dtype, device=hessenberg.device)[:, 1:]
    matrix = torch.where(idle.unsqueeze(1), below, hessenberg)
    factor, triangle = torch.linalg.qr(matrix)
    right = factor[:, 0] * length.unsqueeze(1)
    solved: Tensor = torch.linalg.solve_triangular(triangle, right.unsqueeze(2), upper=True)
    return torch.nan_to_num(solved.squeeze(2), 0.0, 0.0, 0.0)
