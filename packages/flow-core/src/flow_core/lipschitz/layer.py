"""What the Lipschitz layers share: raw weights, a singular pair, and effective weights."""

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.lipschitz.certified import Certified
from flow_core.lipschitz.operators import StackedWeights, WeightOperator
from flow_core.lipschitz.spectral import SpectralMethod, require_positive
from flow_core.lipschitz.staleness import notice_drift

Effective = tuple[Tensor, Tensor | None]
ZERO_INIT_DIVISOR = 1000.0


class LipschitzLayer(Certified):
    """A linear layer whose effective weight is W / max(1, sigma / coeff).

    sigma = uᵀ A(W) v is linear in W: it is <W, direction> with a constant `direction` of the shape
    of the weight. So effective weights cost a few operations on weights, never on feature maps.
    The buffers `v` (a unit vector, the warm start), `direction` and `known_norm`, which is sigma at
    that time, move only in `update_lipschitz`; u = A v / |A v| need not be kept.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    v: Tensor
    direction: Tensor
    known_norm: Tensor

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
        v = torch.randn(columns)
        # On the meta device, where there are no numbers, this would take most of the time.
        self.register_buffer("v", v if v.is_meta else nn.functional.normalize(v, dim=0))
        self.register_buffer("direction", torch.zeros(weight_shape))
        self.register_buffer("known_norm", torch.zeros(()))
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

        The gradient goes through W and through sigma, with u and v constant. A pass of training
        warns where `update_lipschitz` was forgotten.
        """
        sigma = self.norm_estimate()
        if self.training and torch.is_grad_enabled():
            notice_drift(sigma.detach(), self.known_norm, self.coeff)
        return self.weight / (sigma / self.coeff).clamp(min=1.0), self.bias

    def norm_estimate(self) -> Float[Tensor, ""]:
        """Sigma = <W, direction>, at most the norm of the raw weight."""
        return torch.dot(self.weight.flatten(), self.direction.flatten())

    def update_lipschitz(self, iterations: int | None = None) -> None:
        """Follow the weight with the singular pair; the only thing that moves the buffers."""
        refresh([self], iterations)

    @torch.no_grad()
    def absorb(self, factor: float) -> None:
        """Make the raw weight `factor` <= 1 times the effective one; the two are equal then."""
        self.weight.copy_(self.effective()[0] * factor)
        self.known_norm.copy_(self.norm_estimate())


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
    weights = torch.stack([layer.weight for layer in layers])
    operator = first.operator(weights)
    v = torch.stack([layer.v for layer in layers])
    u, v = first.spectral.refine(operator, v, iterations)
    directions = operator.direction(u, v).view_as(weights)
    known = norms(weights, directions)
    for layer, *new in zip(layers, v.unbind(), directions.unbind(), known.unbind(), strict=True):
        for buffer, value in zip((layer.v, layer.direction, layer.known_norm), new, strict=True):
            buffer.copy_(value)


def norms(weights: Tensor, directions: Tensor) -> Float[Tensor, " layers"]:
    """Sigma = <W, direction> of stacked layers."""
    return (weights * directions).flatten(1).sum(1)


def require_coefficient(owner: str, coeff: float) -> None:
    """Refuse coefficients outside (0, 1).

    Raises:
        ValueError: The coefficient is not strictly between 0 and 1.
    """
    if not 0.0 < coeff < 1.0:
        raise ValueError(
            f"{owner}: expected 0 < coeff < 1 (at 1 a block is not invertible), got {coeff}"
        )
