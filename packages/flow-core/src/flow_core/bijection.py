"""The one interface of every invertible layer."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

Context = Float[Tensor, " batch *context"] | None


class Bijection(nn.Module, ABC):
    """An invertible map of a batch, sample by sample.

    Every log-determinant is log|det ∂output/∂input| of the direction that was asked, in nats, of
    shape `(batch,)`. `context` is a tensor whose first dimension is the batch; a layer that does
    not depend on it ignores it. No method changes a parameter or a buffer, except `initialize`.
    Concrete classes are final.
    """

    if TYPE_CHECKING:
        # nn.Module.__call__ is untyped: without this every `layer(x)` is Any for users.
        def __call__(self, x: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            """Same as `transform_and_log_det`."""
            ...

    @abstractmethod
    def transform(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> Float[Tensor, " batch *out"]:
        """Map x to y, without any log-determinant work."""

    @abstractmethod
    def inverse(
        self, y: Float[Tensor, " batch *out"], *, context: Context = None
    ) -> Float[Tensor, " batch *shape"]:
        """Map y back to x, without any log-determinant work."""

    @abstractmethod
    def transform_and_log_det(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *out"], Float[Tensor, " batch"]]:
        """Map x to y; the log-determinant is log|det ∂y/∂x|."""

    @abstractmethod
    def inverse_and_log_det(
        self, y: Float[Tensor, " batch *out"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
        """Map y to x; the log-determinant is log|det ∂x/∂y|."""

    def forward(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *out"], Float[Tensor, " batch"]]:
        """Same as `transform_and_log_det`: what hooks, DDP and compile see."""
        return self.transform_and_log_det(x, context=context)

    def initialize(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> Float[Tensor, " batch *out"]:
        """Set data-dependent parameters from a batch, once, and return the transformed batch.

        Combinators walk this through their children; layers without such parameters only
        transform.
        """
        return self.transform(x, context=context)
