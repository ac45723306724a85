from collections.abc import Callable

import pytest
import torch
from flow_logdet import Exact, Kind, LogDet, log_det_difference
from flow_solvers.maps import BoundMap
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

MapMaker = Callable[..., BoundMap]


def oracle(jacobian: Tensor, kind: Kind) -> Tensor:
    eye = torch.eye(jacobian.shape[-1], dtype=torch.float64)
    plus: Tensor = torch.linalg.slogdet(eye + jacobian.double()).logabsdet
    minus: Tensor = torch.linalg.slogdet(eye - jacobian.double()).logabsdet
    return plus if kind is Kind.RESIDUAL else minus - plus


def exact(bound: BoundMap, w: Tensor, kind: Kind, limit: int = 64) -> LogDet:
    estimator = Exact(limit)
    return estimator.log_det(estimator.linearize(bound, w), kind)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("channels", [1, 2, 3, 7])
@pytest.mark.parametrize("negative", [False, True])
def test_exact_is_the_slogdet(
    dense_map: MapMaker, channels: int, kind: Kind, negative: bool
) -> None:
    bound = -dense_map(channels) if negative else dense_map(channels)
    w = torch.randn(20, channels, dtype=torch.float64)
    result = exact(bound, w, kind)
    expected = oracle(bound.linearize(w).jacobian(), kind)
    torch.testing.assert_close(result.value, expected, rtol=1e-12, atol=1e-12)
    assert result.products == channels
    assert result.standard_error is None
    # A wrong sign could hide behind a value of zero.
    assert result.value.abs().max() > 1e-2


@pytest.mark.parametrize("kind", Kind)
def test_closed_form_covers_every_sign_of_the_determinants(kind: Kind) -> None:
    jacobian = torch.tensor(
        [
            [[0.3, 0.8], [-0.7, 0.2]],
            [[-3.0, 0.1], [0.2, 0.4]],
            [[3.0, 0.5], [0.1, -2.5]],
            [[-2.0, 0.0], [0.3, -4.0]],
        ],
        dtype=torch.float64,
    )
    bound = LinearPerSample(jacobian)
    value = exact(bound, torch.zeros(4, 2, dtype=torch.float64), kind).value
    torch.testing.assert_close(value, oracle(jacobian, kind), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", Kind)
def test_exact_on_images_and_on_scalars(dense_map: MapMaker, kind: Kind) -> None:
    bound = dense_map(2, kernel=3)
    w = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(
        exact(bound, w, kind).value, oracle(bound.linearize(w).jacobian(), kind)
    )
    scalar = LinearPerSample(torch.full((5, 1, 1), -0.4, dtype=torch.float64))
    expected = oracle(scalar.matrix, kind)
    torch.testing.assert_close(exact(scalar, torch.zeros(5).double(), kind).value, expected)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_exact_is_differentiable_twice(dense_map: MapMaker, channels: int, kind: Kind) -> None:
    bound = dense_map(channels, growth=2, depth=1)
    w = torch.randn(2, channels, dtype=torch.float64, requires_grad=True)

    def value(point: Tensor, *tensors: Tensor) -> Tensor:
        return exact(bound.with_tensors(tensors), point, kind).value

    assert gradcheck(value, (w, *bound.tensors()))
    assert gradgradcheck(value, (w, *bound.tensors()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [2, 5])
def test_exact_keeps_the_dtype_and_takes_an_empty_batch(
    dense_map: MapMaker, channels: int, dtype: torch.dtype
) -> None:
    bound = dense_map(channels, dtype=dtype)
    assert exact(bound, torch.randn(3, channels, dtype=dtype), Kind.MONOTONE).value.dtype == dtype
    assert exact(bound, torch.randn(0, channels, dtype=dtype), Kind.MONOTONE).value.shape == (0,)


def test_exact_refuses_large_dimensions(dense_map: MapMaker) -> None:
    with pytest.raises(ValueError, match=r"at most 4 dimensions .* got 5; .*Krylov"):
        exact(dense_map(5), torch.zeros(1, 5).double(), Kind.RESIDUAL, limit=4)


def test_difference_of_log_dets(dense_map: MapMaker) -> None:
    at_x, at_z = (
        dense_map(3, seed=s).linearize(torch.randn(6, 3, dtype=torch.float64)) for s in (1, 2)
    )
    result = log_det_difference(Exact(), at_x, at_z)
    expected = oracle(at_x.jacobian(), Kind.RESIDUAL) - oracle(at_z.jacobian(), Kind.RESIDUAL)
    torch.testing.assert_close(result.value, expected)
    assert result.products == 6
    assert result.standard_error is None


class LinearPerSample:
    """G(w) = J w, and its own linearization."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.point = matrix.new_zeros(len(matrix), matrix.shape[-1])

    @property
    def bound(self) -> "LinearPerSample":
        return self

    @property
    def value(self) -> Tensor:
        return self.jvp(self.point)

    def __call__(self, w: Tensor) -> Tensor:
        return self.jvp(w)

    def __neg__(self) -> "LinearPerSample":
        return LinearPerSample(-self.matrix)

    def linearize(self, w: Tensor) -> "LinearPerSample":
        assert w.numel() == self.point.numel()
        return self

    def jvp(self, tangent: Tensor) -> Tensor:
        return (self.matrix @ tangent.unsqueeze(-1)).squeeze(-1)

    def vjp(self, cotangent: Tensor) -> Tensor:
        return (self.matrix.mT @ cotangent.unsqueeze(-1)).squeeze(-1)

    def jacobian(self) -> Tensor:
        return self.matrix

    def select(self, index: Tensor) -> "LinearPerSample":
        return LinearPerSample(self.matrix[index])

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def with_tensors(self, tensors: object) -> "LinearPerSample":
        raise NotImplementedError


def shaped(batch: int, dim: int) -> Tensor:
    source = torch.Generator().manual_seed(dim)
    return torch.randn(batch, dim, dim, generator=source, dtype=torch.float64)


def hard(shape: str, dim: int) -> Tensor:
    """Matrices of norm .99."""
    raw = shaped(64, dim)
    rotation: Tensor = torch.linalg.qr(raw).Q
    if shape == "turning":
        return 0.99 * rotation
    symmetric = raw @ raw.mT if shape == "definite" else raw + raw.mT
    sizes: Tensor = torch.linalg.matrix_norm(symmetric, 2, keepdim=True)
    return -0.99 * symmetric / sizes


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("shape", ["turning", "definite", "symmetric"])
@pytest.mark.parametrize("dim", [13, 43])
def test_digits_near_the_largest_norm(kind: Kind, shape: str, dim: int) -> None:
    """In float32, of values and of gradients, where I + J and I - J are nearly singular."""
    matrices = hard(shape, dim).requires_grad_()
    expected = oracle(matrices, kind)
    slope: Tensor = torch.autograd.grad(expected.sum(), matrices)[0]
    single = matrices.detach().float().requires_grad_()
    found = exact(LinearPerSample(single), single.new_zeros(64, dim), kind).value
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-5)
    gradient: Tensor = torch.autograd.grad(found.sum(), single)[0]
    missed = (gradient - slope).flatten(1).norm(dim=1) / slope.flatten(1).norm(dim=1)
    assert missed.max() < 2e-5


@pytest.mark.parametrize("kind", Kind)
def test_derivatives_by_the_matrices(kind: Kind) -> None:
    """Both modes, of first, second and third order, of matrices that are no contractions too."""
    matrices = shaped(2, 4).requires_grad_()
    point = matrices.new_zeros(2, 4)

    def value(matrices: Tensor) -> Tensor:
        return exact(LinearPerSample(matrices), point, kind).value

    def curvature(matrices: Tensor) -> Tensor:
        first: Tensor = torch.autograd.grad(value(matrices).sum(), matrices, create_graph=True)[0]
        second: Tensor = torch.autograd.grad(first.square().sum(), matrices, create_graph=True)[0]
        return second

    assert gradcheck(value, (matrices,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(value, (matrices,), check_fwd_over_rev=True)
    assert gradcheck(curvature, (matrices,))
