"""Transforms of torch.func over a solve: those that work, and the error of the others."""

from collections.abc import Callable

import pytest
import torch
from flow_solvers import FunctionMap, resolvent
from torch import Tensor
from torch.autograd import forward_ad, functional
from torch.nn.functional import linear


def matrix(dim: int) -> Tensor:
    raw = torch.arange(float(dim * dim)).sin().view(dim, dim)
    size: Tensor = torch.linalg.matrix_norm(raw, 2)
    return 0.7 * raw / size


def point(dim: int) -> Tensor:
    return torch.randn(dim, generator=torch.Generator().manual_seed(0))


def sines(w: Tensor, matrix: Tensor) -> Tensor:
    return torch.sin(linear(w, matrix))


def solved(x: Tensor) -> Tensor:
    return resolvent(FunctionMap(sines, (matrix(len(x)),)), x.unsqueeze(0)).value[0]


def squared(x: Tensor) -> Tensor:
    return solved(x).square().sum()


def by_weight(weight: Tensor) -> Tensor:
    return resolvent(FunctionMap(sines, (weight,)), torch.ones(1, len(weight))).value


def dual(x: Tensor) -> object:
    with forward_ad.dual_level():
        return solved(forward_ad.make_dual(x, x))  # type: ignore[no-untyped-call]  # as torch has it


REFUSED: dict[str, Callable[[Tensor], object]] = {
    "vmap": lambda x: torch.func.vmap(solved)(torch.stack([x, x])),
    "vmap over weights": lambda x: torch.func.vmap(by_weight)(torch.stack(2 * [matrix(len(x))])),
    "jacrev": torch.func.jacrev(solved),
    "jacrev of grad": torch.func.jacrev(torch.func.grad(squared)),
    "jacfwd": torch.func.jacfwd(solved),
    "hessian": torch.func.hessian(squared),
    "linearize": lambda x: torch.func.linearize(solved, x),
    "jvp": lambda x: torch.func.jvp(solved, (x,), (x,)),
    "vmap of grad": lambda x: torch.func.vmap(torch.func.grad(squared))(torch.stack([x, x])),
    "forward mode": dual,
    "vectorized Jacobian": lambda x: functional.jacobian(solved, x, vectorize=True),  # type: ignore[no-untyped-call]  # likewise
    "vectorized Hessian": lambda x: functional.hessian(squared, x, vectorize=True),  # type: ignore[no-untyped-call]  # likewise
}


@pytest.mark.parametrize("dim", [2, 8, 20])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_transformed_names_the_remedy(name: str, dim: int) -> None:
    with pytest.raises(RuntimeError, match=r"flow_core\.jacobian"):
        REFUSED[name](point(dim))


@pytest.mark.parametrize("dim", [2, 8, 20])
def test_grad_and_vjp_work(dim: int) -> None:
    x = point(dim)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(squared(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(squared)(x), expected)
    (pulled,) = torch.func.vjp(squared, x)[1](torch.ones(()))
    torch.testing.assert_close(pulled, expected)
