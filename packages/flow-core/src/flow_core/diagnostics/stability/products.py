"""Products with the Jacobian of any function, from one evaluation."""

from collections.abc import Callable
from types import TracebackType

import torch
from flow_solvers import without_autocast
from jaxtyping import Float
from torch import Tensor

from flow_core.diagnostics.invertible import Point


class JacobianProducts:
    """J t and Jᵀ g at every sample of a batch, by autograd.

    J t is the derivative of Jᵀ g by g: forward mode would silently miss operations that have no
    rule for it. The function must be differentiable twice; for a solve this is one more adjoint
    solve a product. Used as a context manager, which frees the graphs.

    Args:
        function: Of a batch, sample by sample.
        at: The batch.
    """

    def __init__(self, function: Callable[..., Tensor], at: Point) -> None:
        with torch.inference_mode(mode=False), without_autocast(at.x), torch.enable_grad():
            self._x = at.x.detach().clone().requires_grad_()
            self._y = at.moved(self._x).through(function)
            self._cotangent = torch.zeros_like(self._y, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(
                self._y, self._x, self._cotangent, create_graph=True
            )

    def __enter__(self) -> "JacobianProducts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._y, self._pulled

    def vjp(self, cotangent: Float[Tensor, " batch *out"]) -> Float[Tensor, " batch *shape"]:
        """Jᵀ g."""
        (product,) = torch.autograd.grad(self._y, self._x, cotangent, retain_graph=True)
        return product

    def jvp(self, tangent: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *out"]:
        """J t."""
        (product,) = torch.autograd.grad(self._pulled, self._cotangent, tangent, retain_graph=True)
        return product
