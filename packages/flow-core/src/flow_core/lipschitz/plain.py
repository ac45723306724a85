"""Lipschitz constants and ranges of plain networks, such as those that couplings are made of."""

import copy
import math
from collections.abc import Callable
from functools import singledispatch
from typing import NamedTuple

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.domain import Domain
from flow_core.lipschitz.activations import Activation
from flow_core.lipschitz.certified import Certified
from flow_core.lipschitz.certify import conv_certificate, matrix_norm_exact

_ROUNDING = 1 + 1e-9
# Above the error of an evaluation in float32 of what a network makes of zeros.
_EVALUATION = 1e-4
_SILU = 1.0998394  # largest slope of x·σ(x), rounded up
_GELU = 1.1290417  # of x·Φ(x) and of its approximation by tanh


class NetBounds(NamedTuple):
    """What is known of a network on a domain.

    Attributes:
        lipschitz: A proven l2 Lipschitz constant there; infinite where none is known.
        image: A domain that holds what it gives.
    """

    lipschitz: float
    image: Domain


class Halves(NamedTuple):
    """What is known of a network that gives two things, one behind the other in its channels.

    Attributes:
        whole: A Lipschitz constant of both together.
        first: Of the first half of the channels.
        second: Of the second half.
    """

    whole: float
    first: NetBounds
    second: NetBounds

    def after(self, lipschitz: float) -> "Halves":
        """Behind another network with that constant."""
        constants = (self.whole, self.first.lipschitz, self.second.lipschitz)
        whole, first, second = (product(lipschitz, constant) for constant in constants)
        return Halves(
            whole, NetBounds(first, self.first.image), NetBounds(second, self.second.image)
        )


def halves(module: nn.Module, domain: Domain) -> Halves:
    """Bounds of a network and of both halves of its output.

    The halves have bounds of their own where the last layer is one of `half`.
    """
    *before, last = module if isinstance(module, nn.Sequential) else [module]
    lipschitz, at = net_bounds(nn.Sequential(*before), domain)
    whole = net_bounds(last, at)
    parts = [half(last, i) for i in range(2)]
    first, second = (whole if part is None else net_bounds(part, at) for part in parts)
    return Halves(whole.lipschitz, first, second).after(lipschitz)


@singledispatch
def half(module: nn.Module, index: int) -> nn.Module | None:
    """The layer with half of its outputs, the first or the second; None where that is unknown."""
    return None


@half.register
def _(module: nn.Linear, index: int) -> nn.Module:
    return sliced(module, index)


@half.register
def _(module: nn.Conv2d, index: int) -> nn.Module | None:
    return sliced(module, index) if module.groups == 1 else None


def sliced(module: nn.Module, index: int) -> nn.Module:
    """A layer whose parameters all begin with its outputs, with half of them."""
    part = copy.copy(module)
    held: dict[str, nn.Parameter | None] = vars(module)["_parameters"]
    vars(part)["_parameters"] = {
        name: None if p is None else nn.Parameter(p.detach().chunk(2)[index], requires_grad=False)
        for name, p in held.items()
    }
    return part


@singledispatch
def net_bounds(module: nn.Module, domain: Domain) -> NetBounds:
    """A proven Lipschitz constant of a module in evaluation mode on a domain, and its range.

    Products of the constants of the layers: spectral norms in float64 of matrices and of
    convolutions, largest slopes of activations. Known are the modules of torch that couplings are
    made of, and what proves a bound of itself (`Certified`); others are infinite, and can be made
    known by `net_bounds.register`.

    Args:
        module: What is called with a batch of samples alone.
        domain: Of its input.
    """
    if isinstance(module, Certified):
        return by_lipschitz(module, module.certificate(), domain)
    slope = _slope(module)
    if slope is None:
        return NetBounds(math.inf, domain.image(shape=_shape(module, domain)))
    return by_lipschitz(module, slope, domain)


@net_bounds.register
def _(module: nn.Sequential, domain: Domain) -> NetBounds:
    total = 1.0
    for layer in module:
        lipschitz, domain = net_bounds(layer, domain)
        total = product(total, lipschitz)
    return NetBounds(total, domain)


@net_bounds.register
def _(module: nn.Linear, domain: Domain) -> NetBounds:
    matrix, bias = module.weight, module.bias
    shape = (*domain.shape[:-1], len(matrix))
    return affine_bounds(matrix_norm_exact(matrix), matrix[..., None, None], bias, domain, shape)


@net_bounds.register
def _(module: nn.Conv2d, domain: Domain) -> NetBounds:
    shape = _shape(module, domain)
    if module.padding_mode != "zeros":
        return NetBounds(math.inf, domain.image(shape=shape))
    # With a stride outputs may lie beyond the image, also where there are as many.
    plain = shape[1:] == domain.shape[1:] and set(module.stride) == {1} and module.groups == 1
    norm = conv_norm(module.weight, domain.shape if plain else None)
    return affine_bounds(norm, module.weight, module.bias, domain.with_zero(), shape)


def conv_norm(
    kernel: Float[Tensor, "outputs inputs rows columns"], shape: tuple[int, ...] | None
) -> float:
    """A bound of the norm of a zero-padded convolution.

    √(‖K‖₁‖K‖_∞) from sums of taps on images of any size and with any stride, and that of
    `conv_certificate` where the shape of an image whose size is kept is given and the kernel is a
    square of odd size.
    """
    sums = in_float64(kernel.detach()).abs().sum((2, 3))
    bound = float((sums.sum(0).max() * sums.sum(1).max()).sqrt()) * _ROUNDING
    rows, columns = kernel.shape[2:]
    if shape is None or rows != columns or rows % 2 == 0:
        return bound
    return min(bound, conv_certificate(kernel.detach(), (shape[1], shape[2])))


def affine_bounds(
    norm: float,
    weight: Float[Tensor, "outputs inputs rows columns"],
    bias: Tensor | None,
    domain: Domain,
    shape: tuple[int, ...],
) -> NetBounds:
    """Of W x + b with a matrix or taps.

    Args:
        norm: A bound of the spectral norm.
        weight: Taps; a matrix has one.
        bias: One number per output channel, or None.
        domain: Of x, with 0 in its interval where x is padded.
        shape: Of the output.
    """
    taps = in_float64(weight.detach()).flatten(1)
    offset = taps.new_zeros(len(taps)) if bias is None else in_float64(bias.detach())
    low = _dot(taps.clamp(min=0), domain.lower) + _dot(taps.clamp(max=0), domain.upper)
    high = _dot(taps.clamp(min=0), domain.upper) + _dot(taps.clamp(max=0), domain.lower)
    if math.isfinite(domain.norm):
        # A value is a product with some of the taps of its channel.
        reach = taps.square().sum(1).sqrt() * domain.norm
        low, high = torch.maximum(low, -reach), torch.minimum(high, reach)
    low, high = offset + low, offset + high
    pixels = math.prod(shape) / max(len(taps), 1)
    size = float(offset.square().sum().sqrt()) * math.sqrt(pixels)
    image = domain.image(
        widened_down(float(low.min())),
        widened_up(float(high.max())),
        widened_up(size + product(norm, domain.norm)),
        shape,
    )
    return NetBounds(norm, image)


def by_lipschitz(
    function: Callable[[Tensor], Tensor],
    lipschitz: float,
    domain: Domain,
    like: Tensor | None = None,
) -> NetBounds:
    """A range from a constant L and the value at the point of the interval that is nearest to 0.

    ‖f(x)‖ ≤ ‖f(x₀)‖ + L‖x − x₀‖; for functions of single values, each by itself. A tensor like
    its input may be given for a function that is no module.
    """
    centre, reach = nearest_to_zero(domain)
    with torch.no_grad():
        at = in_float64(function(_filled(function, domain, centre, like)))[0]
    low, high = float(at.min()), float(at.max())
    error = _EVALUATION * max(abs(low), abs(high), 1e-30)
    far = product(lipschitz, reach)
    if isinstance(function, nn.Module) and _slope(function) is not None:
        far = product(lipschitz, max(domain.upper - centre, centre - domain.lower))
    norm = float(at.square().sum().sqrt()) * (1 + _EVALUATION) + product(lipschitz, reach)
    image = domain.image(low - error - far, high + error + far, norm, tuple(at.shape))
    return NetBounds(lipschitz, image)


def nearest_to_zero(domain: Domain) -> tuple[float, float]:
    """The value of an interval that is nearest to 0, and how far samples are from it in l2."""
    centre = min(max(0.0, domain.lower), domain.upper)
    if centre == 0.0:
        return centre, domain.norm
    side = math.sqrt(math.prod(domain.shape))
    return centre, side * max(domain.upper - centre, centre - domain.lower)


def product(one: float, other: float) -> float:
    """A product in which nothing times infinity is infinite, unless it is 0 because of a weight."""
    return 0.0 if 0.0 in (one, other) else one * other


def widened_up(value: float) -> float:
    """Rounded up by more than the errors of sums in float64."""
    return value + abs(value) * 1e-9


def widened_down(value: float) -> float:
    """Rounded down likewise."""
    return value - abs(value) * 1e-9


def _dot(weights: Tensor, value: float) -> Tensor:
    """Σ w·v of every row, with 0·∞ = 0."""
    total = weights.sum(1)
    return torch.where(total == 0, 0.0, total * value)


def _filled(function: object, domain: Domain, value: float, like: Tensor | None = None) -> Tensor:
    """One sample of that value, as the function takes it."""
    if like is None and isinstance(function, nn.Module):
        like = next(function.parameters(), None)
    dtype, device = (torch.float64, None) if like is None else (like.dtype, like.device)
    return torch.full((1, *domain.shape), value, dtype=dtype, device=device)


def _shape(module: nn.Module, domain: Domain) -> tuple[int, ...]:
    with torch.no_grad():
        found: Tensor = module(_filled(module, domain, 0.0))
    return tuple(found.shape[1:])


def _slope(module: object) -> float | None:
    """The largest slope of a function of single values, None for other modules."""
    match module:
        case nn.LeakyReLU():
            return max(1.0, abs(module.negative_slope))
        case nn.ELU():
            return max(1.0, abs(module.alpha))
        case Activation() if module.expansion == 1:
            return module.lipschitz
        case nn.Dropout() if module.training:
            return 1 / (1 - module.p) if module.p < 1 else math.inf
        case _:
            pass
    slopes = [slope for kinds, slope in _SLOPES if isinstance(module, kinds)]
    return slopes[0] if slopes else None


_SLOPES: tuple[tuple[tuple[type[nn.Module], ...], float], ...] = (
    (
        (
            nn.ReLU,
            nn.ReLU6,
            nn.Tanh,
            nn.Softplus,
            nn.LogSigmoid,
            nn.Softsign,
            nn.Hardtanh,
            nn.Identity,
            nn.Flatten,
            nn.Unflatten,
            nn.Dropout,
        ),
        1.0,
    ),
    ((nn.Sigmoid,), 0.25),
    ((nn.SiLU,), _SILU),
    ((nn.GELU,), _GELU),
    ((nn.SELU,), 1.7581),
)
