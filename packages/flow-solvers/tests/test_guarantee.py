"""Maps close to minus the identity, where only the guaranteed method is certain to arrive."""

import pytest
import torch
from flow_solvers import FunctionMap, Picard, Tolerance, resolvent
from torch.nn.functional import linear


@pytest.mark.parametrize("lipschitz", [0.9, 0.95, 0.98, 0.99, 0.995])
def test_rounding_does_not_stop_the_guaranteed_method(lipschitz: float) -> None:
    # Close to G = -id a step makes less progress than float32 resolves in the residual.
    x = torch.randn(13, 1, generator=torch.Generator().manual_seed(0))
    solver = Picard(damping=0.5, lipschitz=lipschitz)
    solution = solver.solve(FunctionMap(lambda w: -lipschitz * w), x, x, Tolerance())
    assert solution.all_converged
    assert solution.calls <= solver.guaranteed_budget(1e-6)


@pytest.mark.parametrize("certified", [0.99, None])
def test_the_default_chain_solves_contractions_close_to_minus_the_identity(
    certified: float | None,
) -> None:
    for seed in range(8):
        source = torch.Generator().manual_seed(seed)
        matrix = -torch.eye(5) + 1e-3 * torch.randn(5, 5, generator=source)
        matrix *= 0.99 / torch.linalg.matrix_norm(matrix, 2)
        bound = FunctionMap(linear, (matrix,))
        assert resolvent(
            bound, torch.randn(64, 5, generator=source), lipschitz=certified
        ).all_converged
