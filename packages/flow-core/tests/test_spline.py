"""Facts of the rational-quadratic spline that the contract test cannot know."""

import math
from dataclasses import fields, replace

import pytest
import torch
from flow_core.combinators import Invert
from flow_core.layers import RationalQuadraticSpline
from flow_core.layers.activations.rational_quadratic import Piece
from torch import Tensor

DTYPES = [torch.float32, torch.float64]
in_both = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def spline(
    *shape: int, bins: int = 5, bound: float = 2.0, std: float = 1.0
) -> RationalQuadraticSpline:
    layer = RationalQuadraticSpline(bins, bound, shape or None)
    generator = torch.Generator().manual_seed(3)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=std, generator=generator)
    return layer


def knots(layer: RationalQuadraticSpline) -> tuple[Tensor, Tensor, Tensor]:
    """Abscissas, ordinates and slopes of a shared spline, written anew."""

    def edges(raw: Tensor, minimum: float) -> Tensor:
        sizes = minimum + (1 - minimum * layer.bins) * raw.exp() / raw.exp().sum()
        ends = [sizes[:k].sum() for k in range(layer.bins + 1)]
        return layer.tail_bound * (2 * torch.stack(ends) - 1)

    shift = math.log(math.exp(1 - layer.min_slope) - 1)
    one = layer.raw_slopes.new_ones(1)
    slopes = layer.min_slope + (1 + (layer.raw_slopes + shift).exp()).log()
    return (
        edges(layer.raw_widths, layer.min_width).detach(),
        edges(layer.raw_heights, layer.min_height).detach(),
        torch.cat([one, slopes, one]).detach(),
    )


def published(layer: RationalQuadraticSpline, x: float) -> tuple[float, float, float]:
    """Value, slope, and the x that comes back, by Durkan et al. 2019, eqs. 4-8."""
    xs, ys, slopes = (k.tolist() for k in knots(layer))
    k = next(k for k in range(layer.bins) if x <= xs[k + 1])
    w, h, d0, d1 = xs[k + 1] - xs[k], ys[k + 1] - ys[k], slopes[k], slopes[k + 1]
    s, xi = h / w, (x - xs[k]) / w
    divisor = s + (d1 + d0 - 2 * s) * xi * (1 - xi)
    rise = h * (s * xi**2 + d0 * xi * (1 - xi)) / divisor
    slope = s**2 * (d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2) / divisor**2
    a = h * (s - d0) + rise * (d1 + d0 - 2 * s)
    b = h * d0 - rise * (d1 + d0 - 2 * s)
    root = 2 * s * rise / (b + math.sqrt(b**2 + 4 * a * s * rise))
    return ys[k] + rise, slope, xs[k] + w * root


def test_it_is_the_published_spline() -> None:
    layer = spline().double()
    x = torch.linspace(-1.99, 1.99, 101, dtype=torch.float64)
    y, log_det = layer(x[:, None])
    expected = torch.tensor([published(layer, float(one)) for one in x], dtype=torch.float64)
    assert torch.allclose(y[:, 0], expected[:, 0], rtol=0, atol=1e-14)
    assert torch.allclose(log_det, expected[:, 1].log(), rtol=0, atol=1e-12)
    assert torch.allclose(layer.inverse(y)[:, 0], expected[:, 2], rtol=0, atol=1e-12)


@in_both
def test_knots_and_ends_are_exact_in_both_directions(dtype: torch.dtype) -> None:
    layer = spline(bound=10.0).to(dtype)
    ends = torch.tensor([[-10.0], [10.0]], dtype=dtype)
    for bijection in (layer, Invert(layer)):
        y, log_det = bijection(ends)
        assert torch.equal(y, ends)
        assert torch.equal(log_det, torch.zeros(2, dtype=dtype))
    xs, ys, slopes = knots(layer.double())
    # In float64 the knots written anew differ from the layer's by rounding only.
    y, log_det = layer(xs[:, None])
    assert torch.allclose(y[:, 0], ys, rtol=0, atol=1e-14)
    assert torch.allclose(log_det, slopes.log(), rtol=0, atol=1e-12)
    x, log_det = layer.inverse_and_log_det(ys[:, None])
    assert torch.allclose(x[:, 0], xs, rtol=0, atol=1e-14)
    assert torch.allclose(log_det, -slopes.log(), rtol=0, atol=1e-12)


@in_both
def test_a_piece_is_exact_at_its_ends(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(6, 1000, generator=generator, dtype=dtype) + 1e-3
    piece = Piece(*numbers)
    assert torch.equal(piece.value(piece.left), piece.bottom)
    assert torch.equal(piece.inverse(piece.bottom), piece.left)
    assert torch.equal(piece.log_slope(piece.left), piece.left_slope.log())
    # Its right end is exact where nothing is rounded in reaching it.
    moved = replace(piece, left=torch.zeros_like(piece.left), bottom=torch.zeros_like(piece.left))
    eps = torch.finfo(dtype).eps
    assert torch.allclose(moved.value(piece.width), piece.height, rtol=2 * eps, atol=0)
    assert torch.equal(moved.inverse(piece.height), piece.width)


@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize("scale", [0.5, 2.0, 1e3, 1e30])
def test_tails_are_the_identity_and_count_nothing(shape: tuple[int, ...], scale: float) -> None:
    """No value, all values or some lie inside of (−2, 2)."""
    layer = spline(*shape)
    x = scale * torch.linspace(-3, 3, 24).view(4, 2, 3)
    y, log_det = layer(x)
    outside = x.abs() >= 2
    assert torch.equal(y[outside], x[outside])
    assert torch.equal(layer.inverse(x)[outside], x[outside])
    assert bool((layer.transform(x)[~outside].abs() < 2).all())
    alone = [layer(x.clone().masked_fill_(outside, 5.0))[1], log_det]
    assert torch.equal(*alone)
    whole = outside.flatten(1).all(1)
    assert torch.equal(log_det[whole], torch.zeros_like(log_det[whole]))


@pytest.mark.parametrize("std", [0.01, 1.0, 4.0, 20.0])
@in_both
def test_the_inverse_is_accurate_with_flat_and_steep_pieces(std: float, dtype: torch.dtype) -> None:
    layer = spline(bins=8, bound=10.0, std=std).to(dtype)
    x = torch.linspace(-11, 11, 4001, dtype=dtype)[:, None]
    y, log_det = layer(x)
    back, inverse_log_det = layer.inverse_and_log_det(y)
    # Rounding y by eps·B moves x by that over the slope.
    unit = 10 * torch.finfo(dtype).eps
    assert bool(((back - x).abs()[:, 0] <= 4 * unit * (1 + (-log_det).exp())).all())
    assert bool((layer.transform(back) - y).abs().max() <= 4 * unit * (1 + log_det.exp().max()))
    if std <= 1:
        assert torch.allclose(inverse_log_det, -log_det, atol=400 * unit)


def test_the_root_is_stable_where_the_published_form_cancels() -> None:
    """b < 0 of eq. 7, with s = 1, d₀ = 1 and a steep right end."""
    one = torch.ones(1)
    piece = Piece(0 * one, one, 0 * one, one, one, 1e6 * one)
    exact = Piece(*(getattr(piece, f.name).double() for f in fields(Piece)))
    y = torch.linspace(0.5, 1, 101)
    expected = exact.inverse(y.double())
    assert torch.allclose(exact.value(expected), y.double(), rtol=1e-12)
    assert torch.allclose(piece.inverse(y).double(), expected, rtol=1e-6)
    s, b = 1.0, 1 - y * (1 + 1e6 - 2)
    published = 2 * s * y / (b + (b**2 + 4 * (s - b) * s * y).sqrt())
    assert not torch.allclose(published.double(), expected, rtol=1e-2)


@in_both
def test_slopes_are_continuous_at_knots(dtype: torch.dtype) -> None:
    layer = spline().double()
    x = knots(layer)[0][:, None]
    log_slopes = [layer(x + step)[1] for step in (-1e-9, 0.0, 1e-9)]
    assert torch.allclose(log_slopes[0], log_slopes[1], atol=1e-6)
    assert torch.allclose(log_slopes[2], log_slopes[1], atol=1e-6)


def test_zero_parameters_are_the_identity_and_new_ones_are_close() -> None:
    x = torch.linspace(-12, 12, 101)[:, None]
    y, log_det = RationalQuadraticSpline()(x)
    assert float((y - x).detach().abs().max()) < 0.3
    assert float(log_det.detach().abs().max()) < 0.1
    y, log_det = spline(std=0.0, bound=10.0)(x)
    assert torch.allclose(y, x, rtol=0, atol=5e-6)
    assert torch.allclose(log_det, torch.zeros(101), atol=2e-6)
    raw = RationalQuadraticSpline(10, shape=(100,)).raw_widths
    assert float(raw.detach().std()) == pytest.approx(0.01, rel=0.1)


def test_one_spline_per_value_is_as_many_shared_ones() -> None:
    layer = spline(2, 3)
    x = torch.linspace(-2.5, 2.5, 24).view(4, 2, 3)
    y, log_det = layer(x)
    total = torch.zeros(4)
    for i in range(2):
        for j in range(3):
            shared = RationalQuadraticSpline(5, 2.0)
            shared.load_state_dict({k: v[i, j] for k, v in layer.state_dict().items()})
            one, part = shared(x[:, i, j, None])
            assert torch.equal(one[:, 0], y[:, i, j])
            total = total + part
    assert torch.allclose(log_det, total, rtol=1e-6, atol=1e-6)


def test_other_shapes_are_refused() -> None:
    for method in (spline(2, 3), spline(2, 3).inverse):
        with pytest.raises(ValueError, match=r"^Rational\w+: .* \(batch, 2, 3\), got \(4, 6\)"):
            method(torch.zeros(4, 6))


def test_the_inverse_has_its_slope_where_its_two_forms_meet() -> None:
    one = torch.ones(1, dtype=torch.float64)
    piece = Piece(0 * one, one, 0 * one, one, 2 * one, 2 * one)
    y = (one / 2).requires_grad_()
    x, log_slope = piece.inverse_and_log_slope(y)
    (slope,) = torch.autograd.grad(x, y)
    assert torch.allclose(slope.log(), -log_slope)
