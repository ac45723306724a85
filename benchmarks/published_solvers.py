"""The solvers of the published codes, re-implemented with all that they do.

They stop on the whole batch, their tolerances are absolute, and running out of steps is silent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

_PATIENCE = 10
_DAMPED_PATIENCE = 30
_LEAST_DAMPING = 0.1
_BLOW_UP = 1e6
_BANACH_STEPS = 1000


def monotone_flow_anderson(f: Function, start: Tensor, eps: float, threshold: int) -> Tensor:
    """w = f(w) by Anderson acceleration of depth one with a stop for the whole batch.

    X ← f(X) - m (f(X) - f(X')) with m = ⟨D, ΔX⟩/(‖D‖² + 1e-8), D = ΔX - ΔX', ΔX = f(X) - X, until
    max |ΔX|/(eps + eps·|start|) ≤ 1. Ten steps without a better maximum end it; then it starts
    again, damped: from `start` where the maximum is above 10, else from where it is.

    Source: the code of Ahn et al. 2022 (Monotone Flows).
    """
    scale = eps + eps * start.abs()
    image_before = f(start)
    step_before, point = image_before - start, image_before
    best, waited, error = float("inf"), 0, float("inf")
    for _ in range(threshold):
        image = f(point)
        step = image - point
        error = float((step.abs() / scale).max())
        if error <= 1:
            return point
        waited = 0 if error < best else waited + 1
        best = min(best, error)
        if waited >= _PATIENCE:
            break
        weight = _secant_weight(step, step - step_before)
        point = image - weight * (image - image_before)
        image_before, step_before = image, step
    return _damped(f, start if error > 10 else point, scale, threshold)


def _secant_weight(step: Tensor, change: Tensor) -> Tensor:
    flat, rows = change.flatten(1), step.flatten(1)
    weight = (flat * rows).sum(1) / (flat.square().sum(1) + 1e-8)
    return weight.view(-1, *[1] * (step.ndim - 1))


def _damped(f: Function, start: Tensor, scale: Tensor, threshold: int) -> Tensor:
    """Krasnoselskii-Mann iteration; a sample that does not improve for long steps less far."""
    shape = (-1, *[1] * (start.ndim - 1))
    damping = start.new_full((len(start),), 0.5)
    best, waited = torch.full_like(damping, torch.inf), torch.zeros_like(damping)
    point = start + 0.5 * (f(start) - start)
    for _ in range(threshold):
        step = f(point) - point
        error = (step.abs() / scale).flatten(1).amax(1)
        if bool((error < 1).all()):
            break
        waited = torch.where(error < best, 0, waited + 1)
        best = torch.minimum(best, error)
        tired = waited >= _DAMPED_PATIENCE
        damping = torch.where(tired, (0.9 * damping).clamp(min=_LEAST_DAMPING), damping)
        waited = torch.where(tired, 0, waited)
        point = point + damping.view(shape) * step
    return point


@dataclass
class _Inverse:
    """-I + U Vᵀ per sample, with a column for every step."""

    left: Tensor
    right: Tensor
    used: int = 0

    def times(self, x: Tensor) -> Tensor:
        inner = torch.einsum("bkd,bd->bk", self.right[:, : self.used], x)
        return torch.einsum("bdk,bk->bd", self.left[:, :, : self.used], inner) - x

    def transposed_times(self, x: Tensor) -> Tensor:
        inner = torch.einsum("bdk,bd->bk", self.left[:, :, : self.used], x)
        return torch.einsum("bkd,bk->bd", self.right[:, : self.used], inner) - x

    def update(self, step: Tensor, change: Tensor) -> None:
        """The good update; numbers that are not a number become zero, infinite ones stay."""
        row = self.transposed_times(step)
        column = (step - self.times(change)) / (row * change).sum(1, keepdim=True)
        self.left[:, :, self.used] = torch.where(column.isnan(), 0, column)
        self.right[:, self.used] = torch.where(row.isnan(), 0, row)
        self.used += 1


def implicit_flow_broyden(
    g: Function, like: Tensor, eps: float, threshold: int = 30
) -> tuple[Tensor, bool]:
    """g(x) = 0 by Broyden's good method from x = 0, and whether it blew up.

    The seed of the inverse Jacobian is -I but the first step is -g, as if it were +I: the wrong
    way where g = h - x - G(x); where g = x + Jᵀx - v every later direction has to be turned round.
    Stops at a norm of the whole batch below eps·√(batch·dim) or not a number, and after
    `threshold` steps; the iterate with the lowest norm is returned.

    Source: the code of Lu et al. 2021 (Implicit Normalizing Flows).
    """
    shape, batch, dim = like.shape, like.shape[0], like[0].numel()
    point = like.new_zeros(batch, dim)
    value = g(point.view(shape)).flatten(1)
    inverse = _Inverse(like.new_zeros(batch, dim, threshold), like.new_zeros(batch, threshold, dim))
    first = lowest = float(value.norm())
    best, update = point, -value
    for _ in range(threshold):
        point = point + update
        new = g(point.view(shape)).flatten(1)
        norm = float(new.norm())
        if norm < lowest:
            best, lowest = point, norm
        if not norm >= eps * (batch * dim) ** 0.5:
            break
        if norm > _BLOW_UP * first:
            return best.view(shape), True
        inverse.update(update, new - value)
        value, update = new, -inverse.times(new)
    return best.view(shape), False


def implicit_flow_forward(g: Function, rhs: Tensor, eps: float = 1e-6) -> Tensor:
    """w + G(w) = rhs by Broyden, and by Banach iteration where that blew up.

    Args:
        g: The map G.
        rhs: Right-hand side.
        eps: Tolerance of both; the squared step of the second is compared with it.
    """
    value, blew_up = implicit_flow_broyden(lambda w: rhs - g(w) - w, rhs, eps)
    if not blew_up:
        return value
    scale = eps + eps * rhs.abs()
    for _ in range(_BANACH_STEPS):
        new = rhs - g(value)
        done = bool(((new - value).square() / scale < 1).all())
        value = new
        if done:
            break
    return value
