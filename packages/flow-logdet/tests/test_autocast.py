"""Backward passes of log-determinants inside autocast, and transforms that they refuse."""

from collections.abc import Callable

import pytest
import torch
from flow_logdet import (
    Estimator,
    Exact,
    Fixed,
    Kind,
    Krylov,
    NeumannGradient,
    PowerSeries,
    Recompute,
)
from flow_solvers.maps import BoundMap
from torch import Tensor
from torch.autograd import grad

MapMaker = Callable[..., BoundMap]
PROBE = Fixed(torch.linspace(-1, 2, 20).view(1, 4, 5))
STOCHASTIC = [
    Krylov(4, probe=PROBE),
    PowerSeries(6, probe=PROBE),
    NeumannGradient(PowerSeries(6, probe=PROBE)),
    Recompute(Krylov(4, probe=PROBE)),
]


@pytest.mark.parametrize("estimator", [Exact(), *STOCHASTIC])
def test_gradients_are_not_rounded(dense_map: MapMaker, estimator: Estimator) -> None:
    bound = dense_map(5, dtype=torch.float32)
    w = torch.linspace(-1, 1, 20).view(4, 5).requires_grad_()

    def gradients(*, inside: bool) -> tuple[Tensor, ...]:
        value = estimator.log_det(estimator.linearize(bound, w), Kind.MONOTONE).value
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            return grad(value.square().sum(), (w, *bound.tensors()))

    for found, expected in zip(gradients(inside=True), gradients(inside=False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "jvp", "jvp without a graph"])
@pytest.mark.parametrize("estimator", STOCHASTIC)
def test_transforms_name_the_remedy(
    dense_map: MapMaker, estimator: Estimator, transform: str
) -> None:
    bound, w = dense_map(5, dtype=torch.float32), torch.linspace(-1, 1, 20).view(4, 5)

    def value(w: Tensor, *tensors: Tensor) -> Tensor:
        changed = bound.with_tensors(tensors)
        return estimator.log_det(estimator.linearize(changed, w), Kind.MONOTONE).value

    def of_point(w: Tensor) -> Tensor:
        return value(w, *bound.tensors())

    calls: dict[str, Callable[[], object]] = {
        "jacrev": lambda: torch.func.jacrev(of_point)(w),
        "jacfwd": lambda: torch.func.jacfwd(of_point)(w),
        "jvp": lambda: torch.func.jvp(of_point, (w,), (w,)),
        "jvp without a graph": lambda: torch.no_grad()(torch.func.jvp)(of_point, (w,), (w,)),
    }
    with pytest.raises(RuntimeError, match=r"flow_core\.jacobian"):
        calls[transform]()
