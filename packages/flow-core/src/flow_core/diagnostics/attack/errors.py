"""Errors of reconstructions, sample by sample, and their gradients."""

from dataclasses import dataclass

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float, Float64
from torch import Tensor

from flow_core.diagnostics.invertible import InvertibleMap, Point, evaluated
from flow_core.events import per_sample_sum


def distances(
    x: Float[Tensor, " batch *shape"], y: Float[Tensor, " batch *shape"]
) -> Float64[Tensor, " batch"]:
    """‖x − y‖₂ of every sample, in float64; infinite where a value is, NaN where one is none."""
    return per_sample_sum((in_float64(x) - in_float64(y)).square()).sqrt()


def reconstructed(model: InvertibleMap, point: Point) -> Float[Tensor, " batch *shape"]:
    """F⁻¹(F(x)) without gradients; NaN where a solve fails that raises."""
    y, _ = evaluated(model.transform, point)
    return evaluated(model.inverse, point.moved(y))[0]


@dataclass(frozen=True)
class Followed:
    """The pass whose gradient an attack follows.

    Attributes:
        model: F and F⁻¹.
        displacement: Of F(x), for every sample; None for none.
    """

    model: InvertibleMap
    displacement: Float[Tensor, " batch *out"] | None = None

    def is_pass_of(self, model: InvertibleMap) -> bool:
        """Whether it computes what the model does."""
        return self.model is model and self.displacement is None

    def error_and_gradient(
        self, point: Point
    ) -> tuple[Float64[Tensor, " batch"], Float[Tensor, " batch *shape"]]:
        """e = ‖x − F⁻¹(F(x) + displacement)‖₂ and ∂e/∂x, of every sample by itself.

        The gradient is 0 where e is 0, and what it happens to be where e is not finite.
        """
        x = point.x.detach().requires_grad_()
        with torch.inference_mode(mode=False), torch.enable_grad():
            y = point.moved(x).through(self.model.transform)
            if self.displacement is not None:
                y = y + self.displacement
            missed = point.moved(y).through(self.model.inverse) - x
            error = distances(missed.detach(), torch.zeros_like(missed))
            (gradient,) = torch.autograd.grad(missed, x, _unit(missed.detach()))
        return error, gradient


def _unit(missed: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
    """The directions of vectors, 0 of those without one."""
    wide = in_float64(missed)
    lengths = per_sample_sum(wide.square()).sqrt()
    usable = lengths.isfinite() & (lengths > 0)
    ones = (-1, *(1,) * (missed.ndim - 1))
    unit = torch.where(usable.reshape(ones), wide / lengths.reshape(ones), 0.0)
    return unit.to(missed)
