from collections.abc import Callable

import pytest
import torch
from flow_solvers.krylov import arnoldi, golub_kahan, lanczos
from torch import Tensor


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64).to(dtype)


def times(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: torch.einsum("...ij,...j->...i", matrix, v)


def gram_error(rows: Tensor) -> float:
    eye = torch.eye(rows.shape[-2], dtype=rows.dtype)
    return float((rows @ rows.mT - eye).abs().max())


@pytest.mark.parametrize(("dtype", "small"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_arnoldi_relation_and_orthogonality(dtype: torch.dtype, small: float) -> None:
    # Nearly dependent vectors: what a single orthogonalisation does not survive.
    matrix = (torch.eye(40, dtype=torch.float64) + 1e-3 * normal(3, 40, 40)).to(dtype)
    start = normal(3, 40, dtype=dtype)
    found = arnoldi(times(matrix), start, 12)
    assert found.basis.shape == (3, 13, 40)
    assert found.hessenberg.shape == (3, 13, 12)
    assert gram_error(found.basis) < small
    images = found.basis[:, :12] @ matrix.mT
    torch.testing.assert_close(images, found.hessenberg.mT @ found.basis, rtol=0, atol=small)
    torch.testing.assert_close(found.norm, start.norm(dim=1))
    torch.testing.assert_close(found.basis[:, 0] * found.norm.unsqueeze(1), start)
    assert found.steps.tolist() == [12] * 3


def test_breakdown_is_masked_per_problem() -> None:
    matrix = torch.stack(
        (
            torch.diag(torch.tensor([0.5, 0.5, -0.2, -0.2, 0.1, 0.1], dtype=torch.float64)),
            torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64)),
            torch.zeros(6, 6, dtype=torch.float64),
            torch.eye(6, dtype=torch.float64),
        )
    )
    start = torch.ones(4, 6, dtype=torch.float64)
    start[3] = 0
    found = arnoldi(times(matrix), start, 5)
    assert found.steps.tolist() == [3, 5, 1, 0]
    assert bool(found.basis.isfinite().all())
    assert bool(found.hessenberg.isfinite().all())
    inner = found.hessenberg[0, :3, :3]
    expected = torch.tensor([-0.2, 0.1, 0.5], dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.eigvals(inner).real.sort().values, expected)
    assert float(found.basis[0, 3:].abs().sum()) == float(found.hessenberg[0, :, 3:].sum()) == 0


def test_a_space_that_is_full_ends_the_products() -> None:
    calls = list[int]()
    matrix = normal(2, 3, 3)

    def matvec(v: Tensor) -> Tensor:
        calls.append(1)
        return times(matrix)(v)

    found = arnoldi(matvec, normal(2, 3, seed=1), 9)
    assert found.steps.tolist() == [3, 3]
    assert len(calls) == 3


def test_probes_and_images() -> None:
    matrix = normal(2, 12, 12)
    start = normal(3, 2, 3, 2, 2, seed=1)

    def matvec(v: Tensor) -> Tensor:
        return times(matrix)(v.reshape(3, 2, 12)).reshape(v.shape)

    found = arnoldi(matvec, start, 4, batch_dims=2)
    assert found.basis.shape == (3, 2, 5, 12)
    single = arnoldi(times(matrix), start[1].reshape(2, 12), 4)
    torch.testing.assert_close(found.hessenberg[1], single.hessenberg)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_start_vectors(scale: float) -> None:
    start = (scale * normal(2, 5)).float()
    found = arnoldi(times(normal(2, 5, 5).float()), start, 3)
    assert gram_error(found.basis) < 1e-5
    torch.testing.assert_close(found.norm.double(), start.double().norm(dim=1), rtol=1e-5, atol=0)


def test_lanczos_has_the_extreme_eigenvalues() -> None:
    raw = normal(2, 60, 60)
    matrix = raw + raw.mT
    found = lanczos(times(matrix), normal(2, 60, seed=1), 40)
    inner: Tensor = torch.linalg.eigvalsh(found.tridiagonal())
    outer: Tensor = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(inner[:, -1], outer[:, -1], rtol=1e-6, atol=0)
    torch.testing.assert_close(inner[:, 0], outer[:, 0], rtol=1e-6, atol=0)
    assert gram_error(found.basis) < 1e-13


@pytest.mark.parametrize(("dtype", "small"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_golub_kahan(dtype: torch.dtype, small: float) -> None:
    matrix = normal(2, 30, 50, dtype=dtype)
    found = golub_kahan(times(matrix), times(matrix.mT), normal(2, 50, seed=1, dtype=dtype), 20)
    assert found.left.shape == (2, 20, 30)
    assert found.right.shape == (2, 21, 50)
    assert gram_error(found.left) < small
    assert gram_error(found.right) < small
    images = found.right[:, :20] @ matrix.mT
    torch.testing.assert_close(images, found.bidiagonal().mT @ found.left, rtol=0, atol=20 * small)
    inner: Tensor = torch.linalg.matrix_norm(found.bidiagonal(), 2)
    outer: Tensor = torch.linalg.matrix_norm(matrix, 2)
    assert bool((inner <= outer * (1 + 10 * small)).all())
    assert bool((inner >= 0.98 * outer).all())


def test_a_rank_one_matrix_never_reports_more_than_its_norm() -> None:
    matrix = (normal(1, 30, 1) @ normal(1, 1, 40, seed=1)).float()
    found = golub_kahan(times(matrix), times(matrix.mT), normal(1, 40, seed=2).float(), 10)
    norm = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert float(torch.linalg.matrix_norm(found.bidiagonal(), 2)) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: arnoldi(lambda v: v, torch.ones(1, 2), 0),
        lambda: lanczos(lambda v: v, torch.ones(1, 2), 0),
        lambda: golub_kahan(lambda v: v, lambda v: v, torch.ones(1, 2), 0),
    ],
)
def test_no_steps_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="at least one step"):
        make()
