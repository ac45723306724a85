"""Bounds on domains: they hold under search for every layer, and are nearly reached by some."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pytest
import torch
from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.combinators import Chain, Invert, Multiscale
from flow_core.diagnostics import layer_bounds
from flow_core.domain import Domain
from flow_core.jacobian import jacobian
from flow_core.layers import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    BoundedExpScale,
    CheckerboardCoupling,
    Conv1x1,
    ExactConv2d,
    ExponentialConv2d,
    ExpScale,
    HalfRangeSigmoidScale,
    InverseConv2d,
    LogitTransform,
    MaskedConv2d,
    RationalQuadraticSpline,
    SELUTransform,
    SigmoidScale,
    SplitPrior,
    UpperHalfSigmoidScale,
)
from flow_core.layers.couplings.coupling import Coupling
from flow_core.layers.couplings.scales import ScaleFunction
from flow_core.lipschitz import update_lipschitz
from flow_core.lipschitz.plain import net_bounds
from flow_core.settings import Settings
from torch import Tensor, nn

double = pytest.mark.parametrize("dtype", [torch.float64], ids=["float64"])
STEPS, RATE, EPS = 4, 0.1, 1e-5


class Named(Protocol):
    name: str
    shape: tuple[int, ...]


@double
@pytest.mark.cases("stateful")
def test_no_search_leaves_the_bounds(
    case: Named, bijection: Bijection, x: Tensor, context: Tensor | None, using: Settings
) -> None:
    """Gradient ascent on inputs and weights, to stretch and to flatten in turn."""
    generator = torch.Generator().manual_seed(0)
    lower, upper = float(x.min()), float(x.max())
    for step in range(STEPS):
        tangent = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        tangent = EPS * tangent / tangent.norm()
        leaf = x.clone().requires_grad_()
        parameters = [p for p in bijection.parameters() if p.requires_grad]
        both = torch.cat([leaf, leaf + tangent])
        given = None if context is None else torch.cat([context, context])
        y = bijection.transform(both, context=given, using=using)
        stretch = (y[: len(x)] - y[len(x) :]).square().sum().log() * (-1) ** step
        grads = torch.autograd.grad(stretch, [leaf, *parameters], materialize_grads=True)
        x = (x + RATE * (upper - lower) * grads[0].sign()).clamp(lower, upper)
        with torch.no_grad():
            for p, g in zip(parameters, grads[1:], strict=True):
                p.add_(RATE * g / (g.norm() + 1e-12))
        update_lipschitz(bijection)
    given_domain = None if context is None else Domain.around(context)
    domain = Domain(case.shape, lower, upper, context=given_domain)
    local = bijection.bounds_on(domain)
    values = torch.linalg.svdvals(jacobian(bijection, x, context=context, using=using))
    for bounds in (local.bounds, bijection.bounds()):
        assert float(values.max()) <= bounds.transform * (1 + 1e-9)
        assert float(1 / values.min()) <= bounds.inverse * (1 + 1e-9)
    y = bijection.transform(x, context=context, using=using).detach()
    assert local.image.lower - 1e-6 <= float(y.min())
    assert float(y.max()) <= local.image.upper + 1e-6


INFINITE = {"macow-unit-released"}  # e^1000 for scales of σ(r): beyond floating point


@double
@pytest.mark.cases("stateful")
def test_every_layer_has_a_bound_on_a_domain(
    case: Named, bijection: Bijection, x: Tensor, context: Tensor | None
) -> None:
    bounds, _ = bijection.bounds_on(Domain.around(x, context))
    found = math.isfinite(bounds.transform) and math.isfinite(bounds.inverse)
    assert found == (case.name not in INFINITE)


def linear(weights: list[list[float]], biases: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weights[0]), len(weights))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
        layer.bias.copy_(torch.tensor(biases))
    return layer


def steep(scale: ScaleFunction | None = None) -> AffineCoupling:
    """log s ≈ x₁/2 on [−1, 1] for the default scale."""
    return AffineCoupling(linear([[0.0], [0.5]], [0.0, 0.0]), scale)


def checkerboard() -> CheckerboardCoupling:
    conv = nn.Conv2d(1, 2, (1, 3), padding=(0, 1), bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[1, 0, 0] = torch.tensor([0.5, 0.0, 0.0])
    return CheckerboardCoupling(conv, 1, 0)


def masked() -> MaskedConv2d:
    """t = x/2 of the row before, for positive x."""
    layer = MaskedConv2d(1, 1, kernel_size=(1, 1))
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.first.weight.fill_(0.5)
        layer.last.weight[0].fill_(1.0)
    return layer


def exponential() -> ExponentialConv2d:
    layer = ExponentialConv2d(2, 3, (3, 3))
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.weight[:, :, 1, 1] = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    update_lipschitz(layer)
    return layer


def recursive() -> InverseConv2d:
    layer = InverseConv2d(1, (1, 2))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[-0.5, 0.0]]]]))
    return layer


def random(layer: Bijection, scale: float = 0.3) -> Bijection:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in layer.parameters():
            nn.init.normal_(p, std=scale)
    return layer


def fitted() -> ActNorm:
    layer = ActNorm(2)
    layer.initialize(torch.tensor([[0.0, 0.0], [1.0, 5.0], [4.0, 1.0]]))
    return layer


def prior() -> Multiscale:
    conditioner = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        conditioner.weight.copy_(torch.tensor([0.0, 0.5]).view(2, 1, 1, 1))
    identity = Conv1x1(2)
    with torch.no_grad():
        identity.matrix.get_parameter("weight").copy_(torch.eye(2))
    rest = Affine((1, 1, 1))
    return Multiscale([identity, rest], [(2, 1, 1), (1, 1, 1)], [SplitPrior(conditioner)])


@dataclass(frozen=True)
class Tight:
    """A bijection, a domain, and the shares of its bounds that are reached there."""

    make: Callable[[], Bijection]
    domain: Domain
    transform: float
    inverse: float


TIGHT = {
    "additive coupling": Tight(
        lambda: AdditiveCoupling(linear([[3.0]], [0.0])), Domain((2,)), 0.9999, 0.9999
    ),
    "affine coupling": Tight(steep, Domain((2,), -1.0, 1.0), 0.9, 0.9),
    "checkerboard": Tight(checkerboard, Domain((1, 1, 2), -1.0, 1.0), 0.9, 0.9),
    "masked convolution": Tight(masked, Domain((1, 2, 1), 0.0, 1.0), 0.85, 0.85),
    "split prior, jointly": Tight(prior, Domain((2, 1, 1), -1.0, 1.0), 0.9, 0.9),
    "logit": Tight(lambda: LogitTransform(0.05), Domain((2,), 0.0, 1.0), 0.9999, 0.99),
    "sigmoid": Tight(lambda: Invert(LogitTransform(0.0)), Domain((2,), -3.0, 3.0), 0.99, 0.9999),
    "selu": Tight(SELUTransform, Domain((2,), -2.0, -1e-6), 0.9999, 0.9999),
    "spline": Tight(
        lambda: random(RationalQuadraticSpline(4, 1.0), 1.0), Domain((1,), -1.0, 1.0), 0.98, 0.98
    ),
    "exponential": Tight(exponential, Domain((2, 3, 3)), 0.998, 0.998),
    "dense convolution": Tight(
        lambda: random(ExactConv2d(2, 3, (3, 3))), Domain((2, 3, 3)), 0.9999, 0.9999
    ),
    "inverse convolution": Tight(recursive, Domain((1, 1, 32)), 0.9999, 0.9999),
    "1x1 convolution": Tight(lambda: random(Conv1x1(3)), Domain((3,)), 0.9999, 0.9999),
    "actnorm": Tight(fitted, Domain((2,)), 0.9999, 0.9999),
}


def grid(domain: Domain) -> Tensor:
    """Points up to the ends of the interval, in which few values differ."""
    side = torch.linspace(max(domain.lower, -1e3), min(domain.upper, 1e3), 41, dtype=torch.float64)
    dim = math.prod(domain.shape)
    if dim > 2:
        return torch.zeros(1, *domain.shape, dtype=torch.float64)
    return torch.cartesian_prod(*[side] * dim).view(-1, *domain.shape)


@pytest.mark.parametrize("name", TIGHT)
def test_bounds_are_nearly_reached(name: str) -> None:
    case = TIGHT[name]
    layer = case.make().double()
    values = torch.linalg.svdvals(jacobian(layer, grid(case.domain)))
    bounds, _ = layer.bounds_on(case.domain)
    assert case.transform <= float(values.max()) / bounds.transform <= 1 + 1e-9
    assert case.inverse <= float(1 / values.min()) / bounds.inverse <= 1 + 1e-9


def test_an_additive_coupling_has_its_bound_everywhere() -> None:
    coupling = AdditiveCoupling(linear([[3.0]], [5.0]), (2,))
    expected = (3 + math.sqrt(13)) / 2
    assert coupling.bounds().transform == pytest.approx(expected, rel=2e-3)
    assert coupling.bounds().inverse == pytest.approx(expected, rel=2e-3)
    assert steep().bounds() == Bounds()


def test_a_recursion_has_a_bound_on_images_of_any_size() -> None:
    """1/(1 − ρ), which long rows reach."""
    layer = recursive().double()
    values = torch.linalg.svdvals(jacobian(layer, torch.zeros(1, 1, 1, 64, dtype=torch.float64)))
    bounds = layer.bounds()
    assert bounds.transform == pytest.approx(2.0)
    assert bounds.inverse == pytest.approx(1.5)
    assert 0.99 <= float(values.max()) / bounds.transform <= 1
    assert 0.99 <= float(1 / values.min()) / bounds.inverse <= 1
    with torch.no_grad():
        layer.weight.mul_(2)
    assert math.isinf(layer.bounds().transform)
    assert math.isfinite(layer.bounds_on(Domain((1, 1, 8))).bounds.transform)


class TooFlat(ScaleFunction):
    """Says that it is flatter than it is."""

    def log_scale(self, raw: Tensor) -> Tensor:
        return BoundedExpScale().log_scale(raw)

    def largest_slope(self) -> float:
        return 0.2

    def log_range(self, lower: float, upper: float) -> tuple[float, float]:
        return BoundedExpScale().log_range(lower, upper)


def test_a_slope_that_is_too_small_is_found_out() -> None:
    layer, domain = steep(TooFlat()).double(), Domain((2,), -1.0, 1.0)
    values = torch.linalg.svdvals(jacobian(layer, grid(domain)))
    assert float(values.max()) > layer.bounds_on(domain).bounds.transform


class Unknown(ScaleFunction):
    """Says nothing of itself."""

    def log_scale(self, raw: Tensor) -> Tensor:
        return raw.tanh()


class OwnCoupling(Coupling):
    """Says nothing of itself either."""

    numbers = 1

    def _moves(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return raw.sin(), torch.zeros_like(raw)


def test_what_is_unknown_is_infinite() -> None:
    domain = Domain((2,), -1.0, 1.0)
    assert OwnCoupling(nn.Linear(1, 1)).bounds_on(domain).bounds == Bounds()
    assert steep(Unknown()).bounds_on(domain).bounds == Bounds()
    odd = nn.Sequential(nn.Linear(1, 2), nn.Softmax(1))
    assert AffineCoupling(odd).bounds_on(domain).bounds.transform == math.inf


@pytest.mark.parametrize(
    "scale",
    [
        SigmoidScale(),
        SigmoidScale(1.0, 0.1),
        UpperHalfSigmoidScale(),
        HalfRangeSigmoidScale(0.3),
        BoundedExpScale(1.5, 2.0),
        ExpScale(0.1),
    ],
    ids=str,
)
def test_slopes_of_scales_are_the_largest(scale: ScaleFunction) -> None:
    raw = torch.linspace(-40, 10, 100_001, dtype=torch.float64).requires_grad_()
    log_scale = scale.log_scale(raw)
    (slope,) = torch.autograd.grad(log_scale.sum(), raw)
    assert (
        0.9999 * scale.largest_slope() <= float(slope.max()) <= scale.largest_slope() * (1 + 1e-9)
    )
    lower, upper = scale.log_range(-40.0, 10.0)
    assert lower == pytest.approx(float(log_scale.min().detach()))
    assert upper == pytest.approx(float(log_scale.max().detach()))


def nets() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    return {
        "rectified": (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), (3,)),
        "smooth": (nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2), nn.GELU()), (3,)),
        "bounded": (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Sigmoid()), (3,)),
        "units": (nn.Sequential(nn.ELU(2.0), nn.SELU(), nn.Softplus(), nn.LeakyReLU(3.0)), (3,)),
        "images": (
            nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)),
            (1, 3, 4),
        ),
        "grouped": (nn.Conv2d(4, 4, 3, padding=1, groups=2), (4, 3, 3)),
        "strided": (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 5, 5)),
        "dilated": (nn.Conv2d(1, 2, (1, 3), padding=(0, 2), dilation=2), (1, 2, 6)),
        "flat": (nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Dropout()).eval(), (1, 2, 2)),
    }


@pytest.mark.parametrize("name", nets())
def test_networks_of_torch_keep_their_bounds(name: str) -> None:
    net, shape = nets()[name]
    net.requires_grad_(False)
    domain = Domain(shape, -0.5, 2.0)
    lipschitz, image = net_bounds(net, domain)
    net = net.double()
    x = 2.5 * torch.rand(200, *shape, dtype=torch.float64) - 0.5

    def one(v: Tensor) -> Tensor:
        y: Tensor = net(v[None])
        return y[0].flatten()

    matrix = torch.func.vmap(torch.func.jacrev(one))(x)
    seen = float(torch.linalg.matrix_norm(matrix.detach().flatten(2), 2).max())
    assert 0.05 * lipschitz <= seen <= lipschitz * (1 + 1e-9)
    y = net(x).detach()
    assert image.shape == tuple(y.shape[1:])
    assert image.lower <= float(y.min())
    assert float(y.max()) <= image.upper
    assert float(y.flatten(1).norm(dim=1).max()) <= image.norm


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_values_of_half_a_line_reach_as_far(sign: float) -> None:
    half = Domain((2,), upper=0.0) if sign > 0 else Domain((2,), lower=0.0)
    _, image = net_bounds(linear([[sign, sign]], [1.0]), half)
    assert image.lower == -math.inf
    assert image.upper == pytest.approx(1.0)


def test_a_stride_that_keeps_the_size_reaches_beyond_the_image() -> None:
    conv = nn.Conv2d(1, 1, 3, stride=2, padding=2, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, ::2, ::2] = 1.0
    unit = torch.eye(9).view(9, 1, 3, 3)
    found = float(torch.linalg.matrix_norm(conv(unit).detach().flatten(1), 2))
    assert found <= net_bounds(conv, Domain((1, 3, 3), -1.0, 1.0)).lipschitz * (1 + 1e-6)


def test_bounds_of_a_chain_follow_the_domain_through_it() -> None:
    """The second coupling sees what the first makes of the domain, not the domain."""
    grow = Affine((2,))
    with torch.no_grad():
        grow.log_scale.fill_(1.0)
    chain = Chain([grow, Chain([steep()])])
    domain = Domain((2,), -1.0, 1.0)
    found = layer_bounds(chain, domain)
    assert list(found) == ["layers.0", "layers.1.layers.0"]
    within = found["layers.1.layers.0"]
    assert within.transform > 1.5 * steep().bounds_on(domain).bounds.transform
    grown = steep().bounds_on(Domain((2,), -math.e, math.e)).bounds
    assert within.transform == pytest.approx(grown.transform, rel=1e-6)
    whole = chain.bounds_on(domain).bounds
    assert whole.transform == pytest.approx(math.e * within.transform)


def test_the_direction_of_sampling_has_a_domain_of_y() -> None:
    chain = Chain([steep(), Conv1x1(2), steep()]).double()
    z = 4 * torch.rand(200, 2, dtype=torch.float64) - 2
    bounds, image = chain.bounds_on(Domain((2,), -2.0, 2.0), "inverse")
    values = torch.linalg.svdvals(jacobian(chain, z, direction="inverse"))
    assert float(values.max()) <= bounds.inverse
    assert float(1 / values.min()) <= bounds.transform
    x = chain.inverse(z).detach()
    assert image.lower <= float(x.min()) < float(x.max()) <= image.upper
    assert bounds.inverse < 100 * float(values.max())


def test_a_domain_uses_what_each_bound_says_of_the_other() -> None:
    assert Domain((4,), -1.0, 2.0).norm == 4
    assert Domain((4,), norm=3.0).upper == 3.0
    around = Domain.around(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
    assert (around.lower, around.upper) == (-1.0, 2.0)
    assert around.norm == pytest.approx(5**0.5)
    with pytest.raises(ValueError, match="lower <= upper"):
        Domain((2,), 1.0, -1.0)
