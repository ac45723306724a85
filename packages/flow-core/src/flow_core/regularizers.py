"""Penalties that keep an invertible map well conditioned where the data are.

They are functions of maps and tensors and take no part in a model, so that any can be added to any
loss. Source: Behrmann et al. 2021 (Understanding and mitigating exploding inverses), §4 and
released code.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from flow_core.base import BaseDistribution
from flow_core.events import per_sample_sum

DirectionRule: TypeAlias = Literal["per_sample", "per_feature_over_batch"]

_FEW = torch.finfo(torch.float32).tiny


def random_directions(
    x: Float[Tensor, " batch *shape"],
    rule: DirectionRule = "per_sample",
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch *shape"]:
    """Normal directions of the shape of x, divided by a norm.

    per_sample: every sample has a unit vector of its own, uniform on the sphere. So the mean of
    ‖J·d‖² is ‖J‖²_F / D.

    per_feature_over_batch: every value is divided by the norm of that value over the batch, as in
    the released code. Directions then have length √(D/B) about, 4.9 for a batch of 128 images of
    CIFAR-10, which depends on the batch; of a batch of one all values are ±1.

    Args:
        x: Gives shape, dtype and device.
        rule: What normal numbers are divided by.
        generator: Of the device of x; its default one unless given.

    Raises:
        ValueError: If there is no such rule.
    """
    if rule not in get_args(DirectionRule):
        raise ValueError(f"expected a rule in {get_args(DirectionRule)}, got {rule!r}")
    noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    if rule == "per_feature_over_batch":
        over_batch: Tensor = noise.square().sum(0).sqrt()
        return noise / over_batch.clamp(min=_FEW)
    length = per_sample_sum(noise.square()).sqrt().clamp(min=_FEW)
    return noise / length.view(-1, *[1] * (x.ndim - 1))


def density_penalty(
    base: BaseDistribution,
    z: Float[Tensor, " batch *event"],
    log_det: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """−mean(log p(z) + log|det ∂z/∂x|) in nats a sample, summed over all values.

    The normalizing flow regularizer: a map whose density of the data is high has no directions
    there that it shrinks at will. Source: Behrmann et al. 2021, §4.2.

    Args:
        base: p, the distribution of z.
        z: What the map makes of data.
        log_det: Of the map, at the data.

    Raises:
        ValueError: If z is none of the base.
    """
    if z.shape[1:] != base.event_shape:
        raise ValueError(
            f"expected z of shape (batch, {', '.join(map(str, base.event_shape))}), as the base "
            f"has it, got {tuple(z.shape)}"
        )
    return -(base.log_prob(z) + log_det).mean()


def finite_difference_penalty(
    function: Callable[[Tensor], Tensor],
    at: Float[Tensor, " batch *shape"],
    value: Float[Tensor, " batch *out"],
    directions: Float[Tensor, " batch *shape"],
    *,
    step: float = 0.1,
) -> Float[Tensor, " batch"]:
    """‖F(u + ε·d) − F(u)‖² / ε² of every sample, which is about ‖J·d‖².

    Of the inverse it is the same call, with `bijection.inverse`, its argument z and its value x:
    gradients go through the inverse, and through z and x where they have a graph. One evaluation
    of F. Source: Behrmann et al. 2021, §4.1, whose released code divides the sum over the batch by
    ε.

    Args:
        function: F, of a batch.
        at: u.
        value: F(u), from a pass that was made anyway.
        directions: d, see `random_directions`.
        step: ε.

    Raises:
        ValueError: If ε is not positive, or the shapes do not fit.
    """
    if not 0 < step < math.inf:
        raise ValueError(f"expected a positive step, got {step}")
    _require_alike("directions", directions, at)
    moved = function(at + step * directions)
    _require_alike("value, F(u),", value, moved)
    return per_sample_sum((moved - value).square()) / step**2


def jacobian_penalty(
    function: Callable[[Tensor], Tensor],
    at: Float[Tensor, " batch *shape"],
    directions: Float[Tensor, " batch *out"],
) -> Float[Tensor, " batch"]:
    """‖Jᵀ·v‖² of every sample, of which gradients can be taken; the mean over v is ‖J‖²_F / D.

    One evaluation of F and one pass back through it, whose derivative is a second one: layers must
    have second derivatives. Source: Behrmann et al. 2021, released code of the flows
    (`jac_reg_lambda`), after Hoffman et al. 2019.

    Args:
        function: F, of a batch.
        at: u.
        directions: v, of the shape of F(u).

    Raises:
        ValueError: If the shapes do not fit.
    """
    with torch.enable_grad():
        # A view of its own: what u was made of is no part of J, but has gradients from here on.
        at = at.view_as(at) if at.requires_grad else at.detach().requires_grad_()
        value = function(at)
        _require_alike("directions", directions, value)
        (pulled,) = torch.autograd.grad(value, at, directions, create_graph=True)
    return per_sample_sum(pulled.square())


def _require_alike(name: str, found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise ValueError(
            f"expected {name} of shape {tuple(expected.shape)}, got {tuple(found.shape)}"
        )
