"""Scaled swish functions with a learnable slope parameter.

swish(x) = x * sigmoid(b x) with b = softplus(beta) (Chen et al. 2019, "Residual Flows",
section 3.3). Scaling b only stretches the argument, so every bound below holds for each b > 0.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flow_core.lipschitz.activations.base import (
    Activation,
    Inputs,
    Outputs,
    OutputsAndSlope,
    Params,
)

SWISH_SLOPE_BOUND = 1.0998394  # sup |swish'| = 1.09983932..., at b x = 2.39936
CONCATENATED_SWISH_SPEED_BOUND = 1.1043616  # sup |(swish'(x), swish'(-x))| = 1.10436154...
LIPSWISH_SCALE = 1.1
CLIPSWISH_SCALE = 1.1 * 1.004
INITIAL_BETA = 0.5


def swish(x: Float[Tensor, "*shape"], beta: Float[Tensor, "*scalar"]) -> Float[Tensor, "*shape"]:
    """Swish, x * sigmoid(x softplus(beta))."""
    return x * torch.sigmoid(x * functional.softplus(beta))


def swish_and_slope(
    x: Float[Tensor, "*shape"], beta: Float[Tensor, "*scalar"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Swish and its derivative s + z s (1 - s), z = x softplus(beta), s = sigmoid(z)."""
    z = x * functional.softplus(beta)
    s = torch.sigmoid(z)
    return x * s, s * (1 + z * (1 - s))


def initial_beta() -> nn.Parameter:
    """The learnable raw slope, shape (1,)."""
    return nn.Parameter(torch.full((1,), INITIAL_BETA))


class SwishActivation(Activation):
    """What has the one learnable raw slope beta."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = initial_beta()

    def parameters_tuple(self) -> tuple[Tensor, ...]:
        """(beta,)."""
        return (self.beta,)


class LipSwish(SwishActivation):
    """swish(x) / 1.1 (Chen et al. 2019, equation 10)."""

    lipschitz = SWISH_SLOPE_BOUND / LIPSWISH_SCALE

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """swish(a) / 1.1."""
        (beta,) = self.resolve(params)
        return swish(a, beta) / LIPSWISH_SCALE

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """swish(a) / 1.1 and its derivative."""
        (beta,) = self.resolve(params)
        value, slope = swish_and_slope(a, beta)
        return value / LIPSWISH_SCALE, slope / LIPSWISH_SCALE


class CLipSwish(SwishActivation):
    """[swish(x), swish(-x)] / (1.1 * 1.004) (Perugachi-Diaz et al. 2021, i-DenseNets).

    Uses swish(-x) = swish(x) - x, so that one sigmoid serves both halves.
    """

    expansion = 2
    lipschitz = CONCATENATED_SWISH_SPEED_BOUND / CLIPSWISH_SCALE

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """[swish(a), swish(-a)] / 1.1044."""
        (beta,) = self.resolve(params)
        positive = swish(a, beta)
        return torch.cat((positive, positive - a), dim) / CLIPSWISH_SCALE

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """[swish(a), swish(-a)] / 1.1044 and [swish'(a), -swish'(-a)] / 1.1044."""
        (beta,) = self.resolve(params)
        positive, slope = swish_and_slope(a, beta)
        value = torch.cat((positive, positive - a), dim)
        slopes = torch.cat((slope, slope - 1), dim)
        return value / CLIPSWISH_SCALE, slopes / CLIPSWISH_SCALE


class LeakyLSwish(Activation):
    """s x + (1 - s) LipSwish(x), s = sigmoid(alpha); both parameters are learnable.

    1-Lipschitz, as a convex combination of the identity and LipSwish.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), -3.0))
        self.beta = initial_beta()

    def parameters_tuple(self) -> tuple[Tensor, ...]:
        """(alpha, beta)."""
        return (self.alpha, self.beta)

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """The mixture s a + (1 - s) swish(a) / 1.1."""
        alpha, beta = self.resolve(params)
        mix = torch.sigmoid(alpha)
        return mix * a + (1 - mix) / LIPSWISH_SCALE * swish(a, beta)

    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """The activation and its derivative s + (1 - s) swish'(a) / 1.1."""
        alpha, beta = self.resolve(params)
        mix = torch.sigmoid(alpha)
        rest = (1 - mix) / LIPSWISH_SCALE
        value, slope = swish_and_slope(a, beta)
        return mix * a + rest * value, mix + rest * slope
