"""An activation with its learnable parameters held as values."""

from dataclasses import dataclass

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


def bind_activation(activation: Activation) -> BoundActivation:
    """Hold the present parameters of an activation."""
    return BoundActivation(activation, activation.parameters_tuple())
