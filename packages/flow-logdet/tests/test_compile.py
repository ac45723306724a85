"""Estimators inside one compiled graph: no break, and the values and gradients of eager mode."""

from collections.abc import Callable

import pytest
import torch
from flow_logdet import Exact, Fixed, Kind, Krylov, NeumannGradient, PowerSeries
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
