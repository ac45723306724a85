"""What every activation of a Lipschitz network offers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

Inputs = Float[Tensor, "*shape"]
Outputs = Float[Tensor, "*expanded"]
OutputsAndSlope = tuple[Float[Tensor, "*expanded"], Num[Tensor, "*expanded"]]
Params = Sequence[Tensor] | None


class Activation(nn.Module, ABC):
    """An activation with a proven Lipschitz constant and products with its derivative.

    Channel `c` of the input feeds the output channels `c`, `c + channels`, ... up to `expansion`
    copies along `dim`, and the derivative is one slope per output; an activation that mixes
    channels overrides the products `push`, `pull` and `trace`. Learnable parameters are raw;
    methods take them as a tuple in the order of `parameters_tuple()`, so that a bound map can hold
    them as values, and use the module's own where `params` is None.

    Attributes:
        expansion: Output channels per input channel.
        lipschitz: Proven bound of the l2 norm of the Jacobian, whatever the parameters are.
        slope_restricted: Whether it acts on each number alone, with slopes in [0, 1] whatever the
            parameters are: what maps ask for that are Lipschitz by construction.
    """

    expansion: ClassVar[int] = 1
    lipschitz: float = 1.0
    slope_restricted: ClassVar[bool] = False

    @abstractmethod
    def value_and_slope(self, a: Inputs, dim: int, params: Params = None) -> OutputsAndSlope:
        """The activation, and what the products with its derivative need, laid out like it.

        That is d output / d input of each output channel, unless an activation says otherwise.
        Both are ordinary differentiable functions of `a` and of `params`.
        """

    def value(self, a: Inputs, dim: int, params: Params = None) -> Outputs:
        """The activation; `dim` of the result is `expansion` times as long."""
        return self.value_and_slope(a, dim, params)[0]

    def push(
        self, t: Float[Tensor, "*tangents"], slope: Num[Tensor, "*slopes"], dim: int
    ) -> Float[Tensor, "*products"]:
        """φ'(a) t: every output of a concatenating activation reads a copy of the same tangent.

        Args:
            t: Tangents like the input, with any number of probe dimensions in front.
            slope: From `value_and_slope`; it is broadcast over dimensions of length 1.
            dim: The channels, counted from the end.
        """
        if self.expansion == 1:
            return slope * t
        copies = torch.unflatten(slope, dim, (self.expansion, -1)) * t.unsqueeze(dim - 1)
        return copies.flatten(dim - 1, dim)

    def pull(
        self, g: Float[Tensor, "*cotangents"], slope: Num[Tensor, "*slopes"], width: int, dim: int
    ) -> Float[Tensor, "*products"]:
        """φ'(a)ᵀ g, the transpose of `push`: the copies are added up.

        Args:
            g: Cotangents like the output, with any number of probe dimensions in front.
            slope: From `value_and_slope`; it is broadcast over dimensions of length 1.
            width: Channels of the input.
            dim: The channels, counted from the end.
        """
        if self.expansion == 1:
            return slope * g
        pairs = zip(torch.split(slope, width, dim), torch.split(g, width, dim), strict=True)
        first, *others = pairs
        return reduce(lambda total, pair: torch.addcmul(total, *pair), others, torch.mul(*first))

    def trace(
        self, slope: Num[Tensor, "batch write *pixels"], matrix: Float[Tensor, "write read"]
    ) -> Float[Tensor, " batch"]:
        """The sum over k, j and pixels of matrix[k, j] φ'[k, j], per sample."""
        width = matrix.shape[1]
        weights = torch.unflatten(matrix, 0, (-1, width)).diagonal(dim1=1, dim2=2).flatten()
        return slope.unsqueeze(-1).flatten(2).sum(-1) @ weights

    def parameters_tuple(self) -> tuple[Tensor, ...]:
        """The raw learnable parameters, in the order in which `params` expects them."""
        return ()

    def forward(self, a: Inputs, dim: int = 1) -> Outputs:
        """The activation with the module's own parameters."""
        return self.value(a, dim)

    def __call__(self, a: Inputs, dim: int = 1) -> Outputs:
        """Typed `forward`."""
        output: Tensor = super().__call__(a, dim)
        return output

    def resolve(self, params: Params) -> Sequence[Tensor]:
        """`params`, or the module's own parameters where it is None."""
        return self.parameters_tuple() if params is None else params
