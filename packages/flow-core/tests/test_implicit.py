"""Implicit blocks: derivatives against differences, and what their solves cost."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.blocks import Implicit
from flow_core.combinators import Chain, Invert
from flow_core.distributions import Flow
from flow_core.lipschitz import update_lipschitz
from flow_core.maps import FeedForwardNet
from flow_core.record import record
from flow_core.settings import Settings, Solve
from flow_logdet import Exact
from flow_solvers import Anderson, Broyden, Gmres, Picard, Solver, Tolerance
from torch import Tensor
from torch.func import functional_call

# A central difference of sixth order: the error of both orders and of rounding is near 1e-11.
_STENCIL = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
_STEP = 1e-3

_TIGHT = Tolerance(rtol=1e-14)
_SOLVERS: dict[str, Solver | None] = {
    "default": None,
    "broyden": Broyden(memory=20),
    "anderson": Anderson(),
    "picard": Picard(),
}


def linear(dim: int) -> tuple[Implicit, Tensor]:
    first, second = (FeedForwardNet(dim, [8, 8], activation="sin") for _ in range(2))
    return Implicit(first, second), torch.randn(2, dim)


def convolutional() -> tuple[Implicit, Tensor]:
    def net() -> FeedForwardNet:
        """On images of six pixels."""
        return FeedForwardNet(
            2, [6, 6], activation="lipswish", kernels=(3, 1, 3), map_size=(2, 3), preact=True
        )

    return Implicit(net(), net()), torch.randn(2, 2, 2, 3)


CASES: dict[str, Callable[[], tuple[Implicit, Tensor]]] = {
    "2d": lambda: linear(2),
    "3d": lambda: linear(3),
    "6d": lambda: linear(6),
    "image": convolutional,
}


@dataclass
class Loss:
    """A number that depends on the output and on the log-determinant of a block."""

    layer: Implicit | Invert
    using: Settings

    def __call__(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        y, log_det = functional_call(self.layer, parameters, (x,), {"using": self.using})
        total: Tensor = (y.square() * (1 + y.cos())).sum() + (log_det.sin() + log_det).sum()
        return total


def difference(function: Callable[[float], Tensor]) -> Tensor:
    """The derivative at 0."""
    terms = [c * (function(k * _STEP) - function(-k * _STEP)) for k, c in _STENCIL.items()]
    return torch.stack(terms).sum(0) / _STEP


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize(
    ("case", "solver"),
    [("2d", "default"), ("3d", "default"), *(("6d", s) for s in _SOLVERS), ("image", "default")],
)
def test_first_and_second_derivatives_are_those_of_differences(
    case: str, solver: str, direction: str
) -> None:
    """Along random directions of the input and of all parameters, to 1e-9 of their size."""
    torch.manual_seed(0)
    made, x = CASES[case]()
    block, x = made.double().eval(), x.double()
    # Every gradient of a singular vector that an update would move is left out on both sides.
    adjoint = None if case in ("2d", "3d") else Gmres(rtol=1e-14)
    solve = Solve(solver=_SOLVERS[solver], adjoint=adjoint, tolerance=_TIGHT)
    loss = Loss(
        block if direction == "forward" else Invert(block),
        Settings(estimator=Exact(), solve=solve),
    )
    start = {name: p.detach() for name, p in loss.layer.named_parameters()}
    along = [{name: _unit(p) for name, p in start.items()} for _ in range(2)]
    dx = [_unit(x) for _ in range(2)]

    def gradients(t: float, *, graph: bool) -> tuple[list[Tensor], list[Tensor]]:
        """At a point of the second line: leaves, gradients."""
        moved = {n: (p + t * along[1][n]).requires_grad_() for n, p in start.items()}
        at = (x + t * dx[1]).requires_grad_()
        leaves = [at, *moved.values()]
        return leaves, list(torch.autograd.grad(loss(at, moved), leaves, create_graph=graph))

    def slope(t: float) -> Tensor:
        """The derivative along the first line, from gradients."""
        return _inner(gradients(t, graph=False)[1], [dx[0], *along[0].values()])

    @torch.no_grad()
    def value(t: float) -> Tensor:
        return loss(x + t * dx[0], {n: p + t * along[0][n] for n, p in start.items()})

    first = slope(0.0)
    expected = difference(value)
    assert abs(float(first - expected)) <= 1e-9 * max(1.0, abs(float(expected)))
    leaves, found = gradients(0.0, graph=True)
    inner = _inner(found, [dx[0], *along[0].values()])
    second = _inner(list(torch.autograd.grad(inner, leaves)), [dx[1], *along[1].values()])
    expected = difference(slope)
    assert abs(float(second - expected)) <= 1e-9 * max(1.0, abs(float(expected)))


def _unit(like: Tensor) -> Tensor:
    """A random direction."""
    drawn = torch.randn_like(like)
    drawn.div_(drawn.norm())
    return drawn


def _inner(ones: list[Tensor], others: list[Tensor]) -> Tensor:
    total: Tensor = torch.stack([(a * b).sum() for a, b in zip(ones, others, strict=True)]).sum()
    return total


def toy() -> tuple[Flow, Tensor]:
    """A flow of the toys, a little trained: cells of a chessboard."""
    torch.manual_seed(0)

    def net() -> FeedForwardNet:
        return FeedForwardNet(2, [128, 128], activation="sin", coeff=0.99, zero_init=True)

    flow = Flow(StandardNormal((2,)), Chain([Implicit(net(), net()) for _ in range(2)]))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(-flow(points()).mean())
        optimizer.step()
        update_lipschitz(flow)
    return flow, points()


def points(count: int = 200) -> Tensor:
    x = 4 * torch.rand(count, 2) - 2
    return torch.stack([x[:, 0], (x[:, 1] % 1) + (x[:, 0].floor() + x[:, 1].floor() * 2) % 2], 1)


@pytest.mark.parametrize("solver", ["default", "broyden"])
def test_solves_of_the_toys_take_few_evaluations_whatever_the_scale_of_the_loss(
    solver: str,
) -> None:
    flow, x = toy()
    # By default 2x2 systems are solved as they are, without a product.
    adjoint = None if solver == "default" else Gmres()
    using = Settings(solve=Solve(solver=_SOLVERS[solver], adjoint=adjoint))
    products: list[int] = []
    gradients: list[Tensor] = []
    for scale in (1e-8, 1.0, 1e6):
        flow.zero_grad()
        with record() as report:
            torch.autograd.backward(-scale * flow(x, using=using).sum())
        for block in report.summary().values():
            assert 1 < block.max_evaluations <= 7
            assert block.failures == block.derivative_failures == 0
        adjoints = [s for solved in report.derivatives.values() for s in solved]
        assert len(adjoints) == (0 if adjoint is None else 2)
        products.append(max((int(s.products.max()) for s in adjoints), default=0))
        found = [p.grad for p in flow.parameters()]
        gradients.append(torch.cat([g.flatten() / scale for g in found if g is not None]))
    assert products == [products[0]] * 3
    assert (products[0] > 0) is (adjoint is not None)
    assert products[0] <= 7
    for gradient in gradients:
        torch.testing.assert_close(gradient, gradients[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [64, 512])
def test_wide_blocks_take_as_few(dim: int) -> None:
    """The published adjoint solves took 17 to 20 here, by the wrong sign of their seed."""
    torch.manual_seed(0)

    def net() -> FeedForwardNet:
        return FeedForwardNet(dim, [128, 128], activation="lipswish", coeff=0.99)

    block, x = Implicit(net(), net()), torch.randn(256, dim)
    using = Settings(solve=Solve(solver=Broyden()))
    with record(block) as report:
        torch.autograd.backward(block.transform(x, using=using).square().sum())
    (summary,) = report.summary().values()
    (adjoints,) = report.derivatives.values()
    assert summary.failures == summary.derivative_failures == 0
    assert summary.max_evaluations <= 8
    assert max(int(s.products.max()) for s in adjoints) <= 7
