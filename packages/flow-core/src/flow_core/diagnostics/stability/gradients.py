"""Gradients with stored activations beside those with inputs recomputed by inversion."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor

from flow_core.diagnostics.copies import trained
from flow_core.diagnostics.invertible import InvertibleMap, Point

OutputLoss = Callable[[Tensor], Tensor]
Gradients = Sequence[Tensor]


@dataclass(frozen=True)
class GradientAngle:
    """How far apart two gradients by all parameters are, with sums in float64.

    Attributes:
        angle: Between them, in radians; NaN where one of them is not finite.
        relative_distance: ‖ĝ − g‖/‖g‖ with ĝ from recomputed inputs.
        norm: ‖g‖.
        nan_values: Values of ĝ that are NaN.
        inf_values: Values of ĝ that are infinite.
    """

    angle: float
    relative_distance: float
    norm: float
    nan_values: int
    inf_values: int


def half_mean_square(y: Float[Tensor, " batch *out"]) -> Float[Tensor, ""]:
    """The loss that gradients are compared of unless another is given: ½·mean ‖y‖²."""
    return 0.5 * y.square().sum() / max(len(y), 1)


def gradient_angle(
    model: InvertibleMap, point: Point, loss: OutputLoss = half_mean_square
) -> GradientAngle | None:
    """What training with recomputed inputs would do to the gradient of a loss of y.

    The parts of a composition are undone one by one, last first, each from what the one behind it
    gave back, so that errors add up as they do in training. Source: Behrmann et al. 2021, §5.

    Args:
        model: In the precision of the batch.
        point: The batch.
        loss: A number for a batch of images.

    Returns:
        None where the model has no parameters that take gradients.
    """
    parameters = trained(model)
    if not parameters:
        return None
    with torch.inference_mode(mode=False), torch.enable_grad():
        stored = torch.autograd.grad(
            loss(point.through(model.transform)), parameters, materialize_grads=True
        )
        parts = model.parts or (replace(model, uses_context=True),)
        recomputed = _recomputed(parts, parameters, point, loss)
    return compared(stored, recomputed)


def compared(stored: Gradients, recomputed: Gradients) -> GradientAngle:
    """Their angle by Kahan's formula, which is exact for small ones where a cosine is not."""
    pairs = [(in_float64(g), in_float64(h)) for g, h in zip(stored, recomputed, strict=True)]
    g_norm = _norm(g for g, _ in pairs)
    h_norm = _norm(h for _, h in pairs)
    difference = _norm(g * h_norm - h * g_norm for g, h in pairs)
    total = _norm(g * h_norm + h * g_norm for g, h in pairs)
    distance = _norm(h - g for g, h in pairs)
    return GradientAngle(
        angle=2 * math.atan2(difference, total) if 0 < total + difference < math.inf else math.nan,
        relative_distance=distance / g_norm if g_norm else math.nan,
        norm=g_norm,
        nan_values=sum(int(h.isnan().sum()) for _, h in pairs),
        inf_values=sum(int(h.isinf().sum()) for _, h in pairs),
    )


def _recomputed(
    parts: Sequence[InvertibleMap], parameters: Sequence[Tensor], point: Point, loss: OutputLoss
) -> Gradients:
    """Gradients from nothing but the output, as memory-saving training makes them."""
    with torch.no_grad():
        y = _through(parts, point)
    leaf = y.detach().requires_grad_()
    (cotangent,) = torch.autograd.grad(loss(leaf), leaf)
    totals = [torch.zeros_like(p) for p in parameters]
    for part in reversed(parts):
        here = point if part.uses_context else Point(point.x)
        with torch.no_grad():
            x = here.moved(y).through(part.inverse)
        leaf = x.detach().requires_grad_()
        again = here.moved(leaf).through(part.transform)
        found = cast(
            "Sequence[Tensor | None]",
            torch.autograd.grad(again, [leaf, *parameters], cotangent, allow_unused=True),
        )
        cotangent = torch.zeros_like(leaf) if found[0] is None else found[0]
        for total, g in zip(totals, found[1:], strict=True):
            if g is not None:
                total.add_(g)
        y = x
    return totals


def _through(parts: Sequence[InvertibleMap], point: Point) -> Tensor:
    for part in parts:
        here = point if part.uses_context else Point(point.x)
        point = point.moved(here.through(part.transform))
    return point.x


def _norm(vectors: Iterator[Tensor]) -> float:
    return math.sqrt(sum(float(v.square().sum()) for v in vectors))
