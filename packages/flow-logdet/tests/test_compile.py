"""Estimators inside one compiled graph: no break, and the values and gradients of eager mode."""

from collections.abc import Callable

import pytest
import torch
from flow_logdet import Exact, Fixed, Kind, Krylov, NeumannGradient, PowerSeries, log_abs_det
from flow_logdet.estimator import Estimator
from flow_solvers.maps import BoundMap
from torch import Tensor

MapMaker = Callable[..., BoundMap]
PROBE = Fixed(torch.linspace(-1, 2, 8).view(1, 4, 2))


@pytest.mark.compile
@pytest.mark.parametrize(
    "estimator",
    [Exact(), Krylov(4, probe=PROBE, tolerance=0.0), NeumannGradient(PowerSeries(3, probe=PROBE))],
)
def test_fullgraph(dense_map: MapMaker, estimator: Estimator) -> None:
    bound = dense_map(2, dtype=torch.float32)
    w = torch.linspace(-1, 1, 8).view(4, 2)

    def value(point: Tensor, *tensors: Tensor) -> Tensor:
        changed = bound.with_tensors(tensors)
        return estimator.log_det(estimator.linearize(changed, point), Kind.MONOTONE).value

    # Capture is what is tested; code generation would only cost time.
    compiled = torch.compile(value, fullgraph=True, dynamic=False, backend="aot_eager")
    found, expected = (f(w, *bound.tensors()) for f in (compiled, value))
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        *(torch.autograd.grad(x.sum(), bound.tensors()) for x in (found, expected)), strict=True
    ):
        torch.testing.assert_close(a, b)


def stacked(columns: Tensor) -> Tensor:
    """I + J from the columns of J."""
    return torch.eye(columns.shape[-1], dtype=columns.dtype) + columns.permute(1, 2, 0)


def transposed(columns: Tensor) -> Tensor:
    """A matrix that is asked to be contiguous, which Inductor takes for no operation."""
    return (columns[0] @ columns[1]).sin().mT.contiguous()


def error_by_inductor(log_abs_det: Callable[[Tensor], Tensor]) -> float:
    """Of a gradient, relative to the eager one of slogdet."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(5, 5, 5, generator=generator, dtype=torch.float64).div(4)

    def gradient(rule: Callable[[Tensor], Tensor], *, compiled: bool) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            weights = torch.arange(1, 6, dtype=x.dtype)
            return (weights * rule(stacked(x))).sum() + rule(transposed(x)).sum()

        x = columns.clone().requires_grad_()
        call = torch.compile(loss, fullgraph=True) if compiled else loss
        return torch.autograd.grad(call(x), x)[0]

    expected = gradient(slogdet, compiled=False)
    found = gradient(log_abs_det, compiled=True)
    return float((found - expected).norm() / expected.norm())


def slogdet(matrix: Tensor) -> Tensor:
    result: Tensor = torch.linalg.slogdet(matrix).logabsdet
    return result


inductor = pytest.mark.filterwarnings("ignore:.*torch._prims_common.check.*:FutureWarning")


@inductor
@pytest.mark.compile
def test_gradients_by_inductor() -> None:
    assert error_by_inductor(log_abs_det) < 1e-12


@inductor
@pytest.mark.compile
@pytest.mark.xfail(strict=True, reason="torch is wrong: once it is right, slogdet does everywhere")
def test_gradients_of_slogdet_by_inductor() -> None:
    assert error_by_inductor(slogdet) < 1e-12
