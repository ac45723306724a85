"""An activation with its learnable parameters held as values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from flow_core.lipschitz.activations import Activation


@dataclass(frozen=True)
class BoundActivation:
    """What a bound map keeps of an activation."""

    activation: Activation
    params: tuple[Tensor, ...]

    def value(self, a: Tensor, dim: int) -> Tensor:
        """φ(a)."""
        return self.activation.value(a, dim, self.params)

    def value_and_slope(self, a: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """φ(a) and φ'(a)."""
        return self.activation.value_and_slope(a, dim, self.params)

    def with_params(self, params: Sequence[Tensor]) -> "BoundActivation":
        """The same activation with other parameters."""
        return replace(self, params=tuple(params))


def bind_activation(activation: Activation) -> BoundActivation:
    """Hold the present parameters of an activation."""
    return BoundActivation(activation, activation.parameters_tuple())
