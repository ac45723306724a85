"""What the Lipschitz layers share: raw weights, a singular pair, and effective weights."""

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from flow_core.lipschitz.certified import Certified
from flow_core.lipschitz.operators import StackedWeights, WeightOperator
from flow_core.lipschitz.spectral import SpectralMethod, require_positive

Effective = tuple[Tensor, Tensor | None]
ZERO_INIT_DIVISOR = 1000.0


class LipschitzLayer(Certified):
    """A linear layer whose effective weight is W / max(1, sigma / coeff).

    sigma = uᵀ A(W) v is linear in W: it is <W, direction> with a constant `direction` of the shape
    of the weight. So effective weights cost a few operations on weights, never on feature maps.
    The buffers `v` (a unit vector, the warm start) and `direction` move only in
    `update_lipschitz`; u = A v / |A v| need not be kept.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    v: Tensor
    direction: Tensor

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        columns: int,
        *,
        bias: bool,
        coeff: float,
        spectral: SpectralMethod,
        zero_init: bool,
    ) -> None:
        """Draw weights and vectors, and find the singular pair."""
        super().__init__()
        require_coefficient(type(self).__name__, coeff)
        self.coeff = coeff
        self.spectral = spectral
        self.weight = nn.Parameter(torch.empty(weight_shape))
        self.bias = nn.Parameter(torch.empty(weight_shape[0])) if bias else None
        self.reset_parameters(zero_init)
        self.register_buffer("v", nn.functional.normalize(torch.randn(columns), dim=0))
        self.register_buffer("direction", torch.zeros(weight_shape))
        self.update_lipschitz(spectral.initial_iterations)

    def reset_parameters(self, zero_init: bool) -> None:
        """Kaiming-uniform weights (a = sqrt 5), biases U(±1/sqrt fan_in)."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in = self.weight[0].numel()
        with torch.no_grad():
            if zero_init:
                self.weight.div_(ZERO_INIT_DIVISOR)
            if self.bias is not None:
                self.bias.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    @abstractmethod
    def operator(self, weights: StackedWeights) -> WeightOperator:
        """The operators of this layer for a stack of raw weights."""

    @abstractmethod
    def batching_key(self) -> Hashable:
        """Equal for layers whose operators can be stacked."""

    @abstractmethod
    def certificate(self) -> float:
        """Proven upper bound of the l2 norm of the effective operator."""

    def effective(self) -> Effective:
        """(weight, bias) to compute with: a value in the current grad mode; no state is touched.

        The gradient goes through W and through sigma, with u and v constant.
        """
        return effective_weight(self.weight, self.direction, self.coeff), self.bias

    def update_lipschitz(self, iterations: int | None = None) -> None:
        """Follow the weight with the singular pair; the only thing that moves the buffers."""
        refresh([self], iterations)

    @torch.no_grad()
    def absorb(self, factor: float) -> None:
        """Make the raw weight `factor` <= 1 times the effective one; the two are equal then."""
        self.weight.copy_(self.effective()[0] * factor)


def effective_weight(weight: Tensor, direction: Tensor, coeff: float) -> Tensor:
    """W / max(1, sigma / coeff) with sigma = <W, direction>."""
    sigma = torch.dot(weight.flatten(), direction.flatten())
    return weight / (sigma / coeff).clamp(min=1.0)


@torch.no_grad()
def refresh(layers: Sequence[LipschitzLayer], iterations: int | None) -> None:
    """Refine the singular pairs of layers of one `batching_key` together.

    On the meta device nothing is done: there are no numbers to follow.

    Raises:
        ValueError: `iterations` is below 1, or a weight is not finite.
    """
    if iterations is not None:
        require_positive("update_lipschitz", iterations=iterations)
    first = layers[0]
    if first.weight.is_meta:
        return
    operator = first.operator(torch.stack([layer.weight for layer in layers]))
    v = torch.stack([layer.v for layer in layers])
    u, v = first.spectral.refine(operator, v, iterations)
    directions = operator.direction(u, v).view(len(layers), *first.weight.shape)
    for layer, new_v, new_direction in zip(layers, v.unbind(), directions.unbind(), strict=True):
        layer.v.copy_(new_v)
        layer.direction.copy_(new_direction)


def require_coefficient(owner: str, coeff: float) -> None:
    """Refuse coefficients outside (0, 1).

    Raises:
        ValueError: The coefficient is not strictly between 0 and 1.
    """
    if not 0.0 < coeff < 1.0:
        raise ValueError(
            f"{owner}: expected 0 < coeff < 1 (at 1 a block is not invertible), got {coeff}"
        )
