"""ActNorms inside the networks of couplings."""

from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.domain import Domain
from flow_core.layers.actnorm import ActNorm
from flow_core.lipschitz.plain import NetBounds, net_bounds
from flow_core.passes import Pass
from flow_core.settings import DEFAULT_SETTINGS

# It is called inside of a pass, of whose log-determinant it is no part.
_INSIDE = Pass(DEFAULT_SETTINGS, wants_log_det=False, begun=True)


@final
class ConditionerNorm(nn.Module):
    """An `ActNorm` inside the conditioner of a coupling, which is no layer of the flow.

    A pass that initializes the coupling sets it from what comes in then. Source: Kingma & Dhariwal
    2018, released code.

    Args:
        channels: Size of dimension 1.
        variance_floor: As of `ActNorm`.
    """

    def __init__(self, channels: int, *, variance_floor: float = 0.2) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels, variance_floor=variance_floor)

    def forward(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """Scaled and shifted."""
        y, _ = self.actnorm(x, how=_INSIDE)
        return y


@net_bounds.register
def _(module: ConditionerNorm, domain: Domain) -> NetBounds:
    bounds, image = module.actnorm.bounds_on(domain)
    return NetBounds(bounds.transform, image)


@torch.no_grad()
def fit_norms(conditioner: nn.Module, x: Float[Tensor, " batch *shape"]) -> None:
    """Set the ActNorms of a conditioner, each from what those before make of its input.

    Those that are set already stay as they are.
    """
    norms = [module for module in conditioner.modules() if isinstance(module, ConditionerNorm)]
    handles = [norm.register_forward_pre_hook(_fitted) for norm in norms]
    try:
        if norms:
            conditioner(x)
    finally:
        for handle in handles:
            handle.remove()


def _fitted(norm: nn.Module, arguments: tuple[Tensor]) -> None:
    cast(ConditionerNorm, norm).actnorm.initialize(arguments[0])
