"""What every activation of a Lipschitz network offers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn


class Activation(nn.Module, ABC):
    """An activation with a proven Lipschitz constant whose Jacobian is one slope per output.

    Every output channel depends on one input channel: channel `c` of the input feeds the output
    channels `c`, `c + channels`, ... up to `expansion` copies along `dim`. Learnable parameters are
    raw; methods take them as a tuple in the order of `parameters_tuple()`, so that a bound map
    can hold them as values, and use the module's own where `params` is None.
    """

    expansion: ClassVar[int] = 1

    @property
    @abstractmethod
    def lipschitz(self) -> float:
        """Proven bound of the l2 norm of the Jacobian, whatever the learnable parameters are."""

    @abstractmethod
    def value(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "*expanded"]:
        """The activation; `dim` of the result is `expansion` times as long."""

    @abstractmethod
    def value_and_slope(
        self, a: Float[Tensor, "*shape"], dim: int, params: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "*expanded"], Float[Tensor, "*expanded"]]:
        """The activation, and d output / d input of each output channel, laid out like it.

        Both are ordinary differentiable functions of `a` and of `params`.
        """

    def parameters_tuple(self) -> tuple[Tensor, ...]:
        """The raw learnable parameters, in the order in which `params` expects them."""
        return ()

    def forward(self, a: Float[Tensor, "*shape"], dim: int = 1) -> Float[Tensor, "*expanded"]:
        """The activation with the module's own parameters."""
        return self.value(a, dim)

    def __call__(self, a: Float[Tensor, "*shape"], dim: int = 1) -> Float[Tensor, "*expanded"]:
        """Typed `forward`."""
        output: Tensor = super().__call__(a, dim)
        return output

    def resolve(self, params: Sequence[Tensor] | None) -> Sequence[Tensor]:
        """`params`, or the module's own parameters where it is None."""
        return self.parameters_tuple() if params is None else params
