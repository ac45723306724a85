"""What the layers that only move values have in common."""

from jaxtyping import Float
from torch import Tensor

from flow_core.bijection import Bijection, Context


class Rearrangement(Bijection):
    """A bijection whose outputs are its inputs in other places: every log-determinant is 0."""

    def transform_and_log_det(
        self, x: Float[Tensor, " batch *shape"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *out"], Float[Tensor, " batch"]]:
        """The values of x in their new places; the log-determinant is 0."""
        return _with_log_det(self.transform(x, context=context))

    def inverse_and_log_det(
        self, y: Float[Tensor, " batch *out"], *, context: Context = None
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
        """The values of y back where they came from; the log-determinant is 0."""
        return _with_log_det(self.inverse(y, context=context))


def _with_log_det(moved: Tensor) -> tuple[Tensor, Tensor]:
    return moved, moved.new_zeros(moved.shape[0])
