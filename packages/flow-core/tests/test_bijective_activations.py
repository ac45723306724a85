"""Facts of the invertible activations that the contract test cannot know."""

import math
from collections.abc import Callable

import pytest
import torch
from flow_core.bijection import Bijection
from flow_core.combinators import Invert
from flow_core.layers import (
    ElementwiseBijection,
    LeakyReLU,
    LearnableLeakyReLU,
    RationalQuadraticSpline,
    SELUTransform,
    SmoothLeakyReLU,
    SmoothTanh,
)
from flow_core.layers.activations.newton import newton_root, newton_steps
from flow_core.lipschitz import SELU as ContractiveSELU
from torch import Tensor

DTYPES = [torch.float32, torch.float64]
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772


def learned(raw: float) -> LearnableLeakyReLU:
    layer = LearnableLeakyReLU()
    torch.nn.init.constant_(layer.raw_slope, raw)
    return layer


def spline() -> Bijection:
    layer = RationalQuadraticSpline(5, 2.0)
    generator = torch.Generator().manual_seed(3)
    for p in layer.parameters():
        torch.nn.init.normal_(p, generator=generator)
    return layer


SMOOTH: dict[str, Callable[[], SmoothLeakyReLU | SmoothTanh]] = {
    "leaky": SmoothLeakyReLU,
    "leaky-nearly-flat": lambda: SmoothLeakyReLU(1e-3),
    "leaky-nearly-identity": lambda: SmoothLeakyReLU(0.999),
    "tanh": SmoothTanh,
    "tanh-nearly-flat": lambda: SmoothTanh(1.0, 1e-3),
    "tanh-narrow": lambda: SmoothTanh(50.0, 2.0),
    "tanh-wide": lambda: SmoothTanh(0.02, 0.5),
}
ELEMENTWISE: dict[str, Callable[[], ElementwiseBijection]] = {
    **SMOOTH,
    "leaky-relu": LeakyReLU,
    "learned-leaky-relu": lambda: learned(-0.7),
    "selu": SELUTransform,
}
ALL: dict[str, Callable[[], Bijection]] = {**ELEMENTWISE, "spline": spline}
smooth = pytest.mark.parametrize("layer", [make() for make in SMOOTH.values()], ids=SMOOTH.keys())
everyone = pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
in_both = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def column(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """One value per sample, so that a log-determinant is that of a value."""
    return torch.tensor(values, dtype=dtype)[:, None]


def grid(dtype: torch.dtype) -> Tensor:
    """Zero, a dense grid around it, and all magnitudes on both sides up to 1e30."""
    sizes = torch.logspace(-30, 30, 301, dtype=dtype)
    return torch.cat([-sizes, torch.linspace(-40, 40, 2001, dtype=dtype), sizes])[:, None]


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


Function = Callable[[float], float]
CLOSED_FORMS: list[tuple[ElementwiseBijection, Function, Function]] = [
    (LeakyReLU(0.2), lambda x: x if x >= 0 else 0.2 * x, lambda x: 1 if x >= 0 else 0.2),
    (LearnableLeakyReLU(), lambda x: x, lambda _: 1.0),
    (
        learned(1.5),
        lambda x: x if x >= 0 else (sigmoid(1.5) + 0.5) * x,
        lambda x: 1 if x >= 0 else sigmoid(1.5) + 0.5,
    ),
    (
        SmoothLeakyReLU(),
        lambda x: 0.3 * x + 0.7 * softplus(x),
        lambda x: 0.3 + 0.7 * sigmoid(x),
    ),
    (
        SmoothTanh(2.0, 0.3),
        lambda x: math.tanh(2 * x) + 0.3 * x,
        lambda x: 0.3 + 2 / math.cosh(2 * x) ** 2,
    ),
    (
        SELUTransform(),
        lambda x: LAMBDA * (x if x > 0 else ALPHA * math.expm1(x)),
        lambda x: LAMBDA * (1 if x > 0 else ALPHA * math.exp(x)),
    ),
]


@pytest.mark.parametrize(
    ("layer", "value", "slope"), CLOSED_FORMS, ids=[type(form[0]).__name__ for form in CLOSED_FORMS]
)
def test_values_and_slopes_are_the_closed_forms(
    layer: ElementwiseBijection, value: Function, slope: Function
) -> None:
    points = (-30.0, -21.0, -3.0, -0.5, -1e-9, 0.0, 1e-9, 0.7, 4.0, 21.0, 30.0)
    y, log_det = layer.double()(column(*points))
    assert torch.allclose(y, column(*map(value, points)), rtol=1e-14, atol=0)
    expected = torch.tensor([math.log(slope(x)) for x in points], dtype=torch.float64)
    assert torch.allclose(log_det, expected, rtol=1e-14, atol=1e-15)


def test_selu_is_that_of_contractions() -> None:
    x = grid(torch.float64)
    assert torch.equal(SELUTransform().transform(x), ContractiveSELU()(x))


@everyone
@in_both
def test_slopes_are_the_derivatives_at_zero_too(
    make: Callable[[], Bijection], dtype: torch.dtype
) -> None:
    layer = make().to(dtype)
    x = column(-0.3, 0.0, 0.3, dtype=dtype).requires_grad_()
    for one in (layer, Invert(layer)):
        y, log_det = one(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert torch.allclose(slope.log()[:, 0], log_det, rtol=1e-5, atol=1e-6)


@smooth
@in_both
def test_round_trips_of_smooth_activations_are_exact_to_rounding(
    layer: SmoothLeakyReLU | SmoothTanh, dtype: torch.dtype
) -> None:
    x = grid(dtype)
    y = layer.transform(x)
    # What rounding the two terms of y, each by eps, moves x by.
    leaky = isinstance(layer, SmoothLeakyReLU)
    terms = layer.alpha * x.abs() + (1 - layer.alpha) * torch.nn.functional.softplus(x)
    sensitivity = (terms if leaky else y.abs()) / layer.log_slope(x).exp()
    error = (layer.inverse(y) - x).abs()
    assert bool((error <= 4 * torch.finfo(dtype).eps * (x.abs() + sensitivity)).all())


@smooth
def test_float32_inverses_are_those_of_float64(layer: SmoothLeakyReLU | SmoothTanh) -> None:
    eps = torch.finfo(torch.float32).eps
    y = layer.transform(grid(torch.float32))
    x, log_det = layer.inverse_and_log_det(y)
    expected = layer.inverse(y.double())
    # SmoothLeakyReLU is a difference of numbers of this size next to its root.
    scale = 1.0 if isinstance(layer, SmoothLeakyReLU) else 0.0
    sensitivity = expected.abs() + (scale + y.abs()) / layer.log_slope(expected).exp()
    assert bool(((x - expected).abs() <= 4 * eps * sensitivity).all())
    log_slope = layer.log_slope(x.double())[:, 0]
    assert torch.allclose(-log_det.double(), log_slope, rtol=4 * eps, atol=4 * eps)


@everyone
def test_log_det_in_float32_is_that_of_float64(make: Callable[[], Bijection]) -> None:
    layer = make()
    x = torch.linspace(-12, 12, 4001)[:, None]
    _, log_det = layer(x)
    _, expected = layer.double()(x.double())
    eps = torch.finfo(torch.float32).eps
    assert torch.allclose(log_det.double(), expected, rtol=4 * eps, atol=60 * eps)


@pytest.mark.parametrize(
    ("layer", "below", "above"),
    [
        (SmoothLeakyReLU(0.3), math.log(0.3), 0.0),
        (SmoothLeakyReLU(1e-6), math.log(1e-6), 0.0),
        (SmoothTanh(1.0, 0.1), math.log(0.1), math.log(0.1)),
        (SmoothTanh(3.0, 1e-6), math.log(1e-6), math.log(1e-6)),
        (spline(), 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("size", [200.0, 1e10, 1e30, 3e38])
def test_far_away_log_slopes_are_those_of_the_lines(
    layer: Bijection, below: float, above: float, size: float
) -> None:
    x = column(-size, size, dtype=torch.float32).requires_grad_()
    _, log_det = layer(x)
    expected = torch.tensor([below, above])
    assert torch.allclose(log_det, expected, rtol=2e-7, atol=0)
    (grad,) = torch.autograd.grad(log_det.sum(), x)
    assert torch.equal(grad, torch.zeros_like(grad))


@everyone
@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_are_finite_everywhere(make: Callable[[], Bijection], inverse: bool) -> None:
    layer = make()
    bounded = inverse and isinstance(layer, SELUTransform)
    x = grid(torch.float32).clamp(min=-1.7 if bounded else None, max=None if bounded else 1e30)
    x.requires_grad_()
    y, log_det = (Invert(layer) if inverse else layer)(x)
    inputs = [x, *layer.parameters()]
    first = torch.autograd.grad(
        (y / (1 + x.abs())).sum() + log_det.sum(), inputs, create_graph=True
    )
    second = torch.autograd.grad(first[0].sum(), inputs, materialize_grads=True)
    assert all(bool(t.isfinite().all()) for t in (*first, *second))


@everyone
def test_second_derivatives_of_inverses(make: Callable[[], Bijection]) -> None:
    layer = make().double()
    y = layer.transform(column(-2.5, -1.1, -0.3, 0.2, 0.9, 3.1).view(2, 3)).detach()
    y.requires_grad_()

    def inverse(y: Tensor) -> Tensor:
        return layer.inverse(y).sin()

    def both(y: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = layer.inverse_and_log_det(y)
        return x.sin(), (x.sum(1) * log_det).sin()

    for run in (inverse, both):
        assert torch.autograd.gradcheck(run, y, atol=1e-5, rtol=1e-4)
        assert torch.autograd.gradgradcheck(run, y, atol=1e-5, rtol=1e-4)


@smooth
def test_third_derivatives_of_inverses(layer: SmoothLeakyReLU | SmoothTanh) -> None:
    def derivatives(f: Callable[[Tensor], Tensor], at: Tensor) -> list[Tensor]:
        at = at.detach().requires_grad_()
        found, value = list[Tensor](), f(at)
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), at, create_graph=True)
            found.append(value)
        return found

    x = column(-1.3, -0.2, 0.1, 0.8) / (layer.alpha if isinstance(layer, SmoothTanh) else 1)
    one, two, three = derivatives(layer.transform, x)
    got = derivatives(layer.inverse, layer.transform(x))
    expected = [1 / one, -two / one**3, (3 * two**2 - one * three) / one**5]
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11 * float(b.detach().abs().max()))


def test_one_visible_newton_step_would_lose_the_second_derivative() -> None:
    """The twin of two steps: what the second of them is for."""
    y = column(0.4).requires_grad_()
    x = y.detach().sqrt()
    once = x - (x**2 - y) / (2 * x)
    (first,) = torch.autograd.grad(once.sum(), y, create_graph=True)
    assert not first.requires_grad
    twice = newton_root(lambda x: x**2, lambda x: 2 * x, y, x, 1)
    (first,) = torch.autograd.grad(twice.sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), y)
    assert torch.allclose(second, -(y.detach() ** -1.5) / 4)


def test_newton_steps_are_few_and_enough() -> None:
    # On e^x − 1 with (log f')' = 1 the bound is met with equality.
    for distance in (0.1, 1.0, 5.0, 40.0):
        x, steps = distance, newton_steps(distance, 1.0)
        for _ in range(steps):
            x -= -math.expm1(-x)
        assert abs(x) < 1e-15
        assert steps <= distance + 6
    assert newton_steps(1.2, 0.3) == 5


@pytest.mark.parametrize("alpha", [1e-12, 1e-6, 0.01, 0.3, 0.9, 1 - 1e-9])
def test_smooth_leaky_relu_start_is_as_close_as_proven(alpha: float) -> None:
    layer = SmoothLeakyReLU(alpha)
    y = torch.linspace(-3, 3, 2001, dtype=torch.float64)[:, None]
    start = torch.minimum(y, y / alpha)
    distance = start - layer.inverse(y)
    assert float(distance.min()) > -1e-12 * max(1.0, float(start.abs().max()))
    assert float(distance.max()) <= -math.log(alpha) * (1 + 1e-9)
    assert torch.allclose(layer.transform(layer.inverse(y)), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ratio", [1e-9, 1e-3, 0.1, 1.0, 1e3])
def test_smooth_tanh_start_is_as_close_as_proven(ratio: float) -> None:
    layer = SmoothTanh(1.0, ratio)
    y = (1 + ratio) * torch.linspace(-3, 3, 2001, dtype=torch.float64)[:, None]
    start = torch.maximum(y.abs() / (1 + ratio), (y.abs() - 1) / ratio)
    distance = layer.inverse(y).abs() - start
    assert float(distance.min()) > -1e-12 * float(start.max())
    assert float(distance.max()) <= math.log1p(4 * math.exp(-2) / ratio) / 2
    assert torch.allclose(layer.transform(layer.inverse(y)), y, rtol=1e-12, atol=1e-12)


@in_both
def test_selu_domain(dtype: torch.dtype) -> None:
    layer = SELUTransform()
    y = column(-LAMBDA * ALPHA, -1.76, -100.0, -1.75, 0.0, 5.0, dtype=dtype)
    x, log_det = layer.inverse_and_log_det(y)
    assert float(x[0]) == -math.inf
    assert torch.isnan(x[:, 0]).tolist() == [False, True, True, False, False, False]
    assert torch.isnan(log_det).tolist() == [False, True, True, False, False, False]
    assert float(layer.transform(column(-1000.0, dtype=dtype))) == float(y[0])


def test_selu_loses_no_more_than_its_saturation() -> None:
    x = torch.linspace(-12, 5, 1001)[:, None]
    error = (SELUTransform().inverse(SELUTransform().transform(x)) - x).abs()
    eps = torch.finfo(torch.float32).eps
    assert bool((error <= 2 * eps * (1 + x.abs() + (-x).exp())).all())


@everyone
def test_nan_stays_in_its_value(make: Callable[[], Bijection]) -> None:
    x = column(math.nan, 0.5, dtype=torch.float32)
    for one in (make(), Invert(make())):
        assert torch.isnan(one.transform(x)[:, 0]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeakyReLU(0.0), "positive negative_slope, got 0.0"),
        (lambda: LeakyReLU(math.nan), "positive negative_slope, got nan"),
        (lambda: SmoothLeakyReLU(0.0), "0 < alpha < 1, got 0.0"),
        (lambda: SmoothLeakyReLU(1.0), "0 < alpha < 1, got 1.0"),
        (lambda: SmoothTanh(0.0), "positive alpha and beta, got alpha=0.0"),
        (lambda: SmoothTanh(1.0, -0.1), "positive alpha and beta, got alpha=1.0, beta=-0.1"),
        (lambda: RationalQuadraticSpline(1), "at least two bins"),
        (lambda: RationalQuadraticSpline(tail_bound=0.0), "positive tail_bound"),
        (lambda: RationalQuadraticSpline(tail_bound=math.inf), "positive tail_bound"),
        (lambda: RationalQuadraticSpline(5, min_width=0.2), r"1/bins = 0.2 .* got min_width=0.2"),
        (lambda: RationalQuadraticSpline(5, min_height=0.0), "got min_width=0.001, min_height=0.0"),
        (lambda: RationalQuadraticSpline(5, min_slope=1.0), "min_slope below 1"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], Bijection], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
