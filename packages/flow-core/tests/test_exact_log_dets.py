"""What exact log-determinants of blocks share with the solve: one evaluation, one factorisation."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from flow_core import Settings, Solve
from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual
from flow_core.combinators import Invert
from flow_core.maps import DenseNet, SandwichNet
from flow_logdet import Exact
from flow_solvers import Gmres, LinearSolution, Operator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DIM = 20


@dataclass(frozen=True)
class Foreign:
    """A linear solver that nobody knows the tolerance of."""

    def solve(self, operator: Operator, rhs: Tensor) -> LinearSolution:
        return Gmres().solve(operator, rhs)


class Factorisations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Counts what costs dim³ beside products, and solves of a vector."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if name == "linalg_lu_solve":
            name = "vector" if args[2].shape[-1] == 1 else "inverse"
        self.count[name] += 1
        return func(*args, **(kwargs or {}))

    def costly(self) -> dict[str, int]:
        names = ("linalg_lu_factor_ex", "_linalg_slogdet", "linalg_inv_ex", "inverse", "vector")
        return {name: self.count[name] for name in names if self.count[name]}


def block_of(kind: str) -> Bijection:
    torch.manual_seed(2)
    if kind == "monotone":
        return Monotone(SandwichNet(DIM, [24], lipschitz=0.9)).double()
    if kind == "inverse residual":
        return Invert(Residual(DenseNet(DIM, growth=8, depth=2))).double()
    return Implicit(DenseNet(DIM, growth=8, depth=2), SandwichNet(DIM, [24])).double()


def gradients_of(block: Bijection, x: Tensor, using: Settings) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y, log_det = block.transform_and_log_det(x, using=using)
    loss = (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()).sum()
    loss = loss + (log_det * torch.arange(1, 1 + len(x))).sum()
    return list(torch.autograd.grad(loss, [x, *block.parameters()], materialize_grads=True))


@pytest.mark.parametrize("kind", ["monotone", "inverse residual", "implicit"])
def test_the_factors_serve_the_adjoint(kind: str) -> None:
    """A solver of unknown tolerance is used as it is, without factors."""
    block, x = block_of(kind), torch.randn(4, DIM, dtype=torch.float64)
    found = gradients_of(block, x, Settings(estimator=Exact()))
    solve = Solve(adjoint=Foreign())
    expected = gradients_of(block, x, Settings(estimator=Exact(), solve=solve))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("monotone", {"linalg_lu_factor_ex": 2, "inverse": 1, "vector": 2}),
        ("inverse residual", {"linalg_lu_factor_ex": 1, "inverse": 1, "vector": 2}),
        # Of both nets.
        ("implicit", {"linalg_lu_factor_ex": 2, "inverse": 2, "vector": 2}),
    ],
)
def test_no_factorisation_is_made_twice(kind: str, expected: dict[str, int]) -> None:
    block, x = block_of(kind), torch.randn(4, DIM, dtype=torch.float64)
    with Factorisations() as made:
        gradients_of(block, x, Settings(estimator=Exact()))
    made.count["linalg_inv_ex"] = 0  # of the Cayley transforms of sandwich nets
    assert made.costly() == expected


def test_second_derivatives() -> None:
    """Of the whole block, against differences of first ones."""
    block = block_of("monotone")
    x = torch.randn(2, DIM, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)

    def slope(point: Tensor) -> Tensor:
        y, log_det = block.transform_and_log_det(point, using=Settings(estimator=Exact()))
        loss = y.square().sum() + log_det.square().sum()
        gradient: Tensor = torch.autograd.grad(loss, point, create_graph=True)[0]
        return gradient

    found = torch.autograd.grad((slope(x) * direction).sum(), x)[0]
    step = 1e-5 * direction
    expected = (slope(x + step) - slope(x - step)).detach() / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_second_backward_pass_gives_the_same_numbers() -> None:
    block, x = block_of("monotone"), torch.randn(4, DIM, dtype=torch.float64, requires_grad=True)
    y, log_det = block.transform_and_log_det(x, using=Settings(estimator=Exact()))
    loss = y.square().sum() + log_det.sum()
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
