"""Flows of images made from one config of either kind."""

from flow_solvers import require_kind

from flow_core.bijection import Bijection
from flow_core.distributions import Flow
from flow_core.layers import LogitTransform, Normalize
from flow_core.models.assembly import Shape, assembled
from flow_core.models.config import ContractiveConfig, FlowConfig
from flow_core.models.contractive import contractive_plan
from flow_core.models.convolutional import convolutional_plan
from flow_core.settings import Solve


def image_flow(
    config: FlowConfig | ContractiveConfig, shape: Shape, *, solve: Solve | None = None
) -> Flow:
    """The flow of a config for images `(channels, height, width)` with values in [0, 1].

    Args:
        config: What it is made of.
        shape: Of an image.
        solve: How contractive blocks solve unless the settings of a call say otherwise; None for
            `Solve()`. Convolutional flows solve no fixed points.

    Raises:
        ValueError: If the images cannot be halved often enough, or the channels do not fit.
    """
    example = "a FlowConfig or a ContractiveConfig"
    require_kind("config", config, (FlowConfig, ContractiveConfig), example)
    if isinstance(config, FlowConfig):
        return assembled(convolutional_plan(config), entrance(config, shape[0]), shape)
    return assembled(contractive_plan(config, solve), entrance(config, shape[0]), shape)


def entrance(config: FlowConfig | ContractiveConfig, channels: int) -> Bijection:
    """What makes real numbers of pixels in [0, 1].

    Raises:
        ValueError: If moments are given for another number of channels.
    """
    if not config.mean:
        return LogitTransform(config.alpha)
    if len(config.mean) not in (1, channels):
        raise ValueError(
            f"mean: expected one number, or one for each of {channels} channels with any padding, "
            f"got {len(config.mean)}"
        )
    times = channels // len(config.mean)
    return Normalize(config.mean * times, config.std * times)
