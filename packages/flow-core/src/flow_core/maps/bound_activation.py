"""An activation with its learnable parameters held as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from flow_core.lipschitz.activations import Activation

_COMMON = frozenset(vars(nn.Module()))
"""What every module has."""


@dataclass(frozen=True)
class BoundActivation:
    """What a bound map keeps of an activation."""

    activation: Activation
    params: tuple[Tensor, ...]

    def value(self, a: Tensor, dim: int) -> Tensor:
        """φ(a)."""
        return self.activation.value(a, dim, self.params)

    def value_and_slope(self, a: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """φ(a), and what the products with φ'(a) need."""
        return self.activation.value_and_slope(a, dim, self.params)

    def push(self, t: Tensor, slope: Tensor, dim: int) -> Tensor:
        """φ'(a) t; see `Activation.push`."""
        return self.activation.push(t, slope, dim)

    def pull(self, g: Tensor, slope: Tensor, width: int, dim: int) -> Tensor:
        """φ'(a)ᵀ g for inputs of `width` channels; see `Activation.pull`."""
        return self.activation.pull(g, slope, width, dim)

    def trace(self, slope: Tensor, matrix: Tensor) -> Tensor:
        """The sum of matrix * φ'(a) over channels and pixels; see `Activation.trace`."""
        return self.activation.trace(slope, matrix)

    def kind(self) -> tuple[object, ...]:
        """Equal for activations that compiled code serves alike."""
        return type(self.activation), self.activation.training, self.is_closed()

    def is_closed(self) -> bool:
        """Whether the activation has no attributes, buffers or parameters besides `params`."""
        state: Mapping[str, Any] = vars(self.activation)
        if state["_buffers"] or state["_modules"] or not state.keys() <= _COMMON:
            return False
        return len(state["_parameters"]) == len(self.params)


def bind_activation(activation: Activation) -> BoundActivation:
    """Hold the present parameters of an activation."""
    return BoundActivation(activation, activation.parameters_tuple())
