import pytest
import torch
from flow_logdet import Kind
from flow_logdet.hessenberg import first_columns, resolvent_columns
from torch import Tensor


def hessenberg(norm: float, steps: int, batch: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(steps)
    matrix = torch.randn(batch, steps, steps, generator=generator, dtype=torch.float64).triu(-1)
    size: Tensor = torch.linalg.matrix_norm(matrix, 2)
    return matrix * (norm / size)[:, None, None]


def by_eigenvalues(matrix: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """First columns of f(H) and f'(H); random matrices are safely diagonalizable."""
    values, vectors = torch.linalg.eig(matrix)
    function = sum((c * torch.log(1 + s * values) for s, c in kind.pairs), 0 * values)
    slope = sum((c * s / (1 + s * values) for s, c in kind.pairs), 0 * values)
    first: Tensor = torch.linalg.inv(vectors)[..., 0]
    columns = [(vectors @ (f * first).unsqueeze(-1)).squeeze(-1).real for f in (function, slope)]
    return columns[0], columns[1]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize(("norm", "error"), [(0.3, 1e-12), (0.95, 1e-10), (0.99, 1e-8)])
def test_first_columns_are_accurate(kind: Kind, steps: int, norm: float, error: float) -> None:
    matrix = hessenberg(norm, steps)
    result = first_columns(matrix, kind)
    function, slope = by_eigenvalues(matrix, kind)
    torch.testing.assert_close(result.function, function, rtol=0, atol=error)
    torch.testing.assert_close(result.derivative, slope, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", Kind)
def test_worst_case_near_the_poles(kind: Kind) -> None:
    angles = torch.linspace(0, torch.pi, 40, dtype=torch.float64)
    x, y = 0.99 * angles.cos(), 0.99 * angles.sin()
    matrix = torch.stack([torch.stack([x, -y], -1), torch.stack([y, x], -1)], -2)
    z = torch.complex(x, y)
    expected = sum((c * torch.log(1 + s * z) for s, c in kind.pairs), 0 * z).real
    result = first_columns(matrix, kind).function[:, 0]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-8)


def test_resolvent_columns_solve() -> None:
    matrix = hessenberg(0.9, 6)
    times = torch.tensor([-1.0, 0.0, 0.7, 1.0], dtype=torch.float64)
    columns = resolvent_columns(matrix, times)
    unit = torch.eye(6, dtype=torch.float64)
    for t, column in zip(times, columns, strict=True):
        image = ((unit + t * matrix) @ column.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(image, unit[0].expand_as(image), rtol=0, atol=1e-12)


def test_what_follows_an_invariant_subspace_is_hidden() -> None:
    matrix = hessenberg(0.9, 5)
    matrix[:, 3, 2] = 0
    garbage = matrix.clone()
    garbage[:, :, 3:] = 0
    for kind in Kind:
        inside = first_columns(matrix[:, :3, :3], kind)
        for whole in (first_columns(matrix, kind), first_columns(garbage, kind)):
            torch.testing.assert_close(whole.function[:, :3], inside.function)
            torch.testing.assert_close(whole.derivative[:, :3], inside.derivative)
            assert not whole.derivative[:, 3:].any()
            assert not whole.remainder.any()


def test_float32_input_is_raised_to_float64() -> None:
    assert first_columns(hessenberg(0.5, 3).float(), Kind.RESIDUAL).function.dtype == torch.float64
