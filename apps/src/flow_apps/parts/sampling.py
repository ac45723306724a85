"""Samples of a flow, at a temperature."""

from flow_core.base import StandardNormal
from flow_core.distributions import Flow
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.errors import ConfigError


def draw_samples(
    flow: Flow, count: int, temperature: float = 1.0, using: Settings | None = None
) -> Float[Tensor, " count *event"]:
    """Draw samples of the data space.

    Args:
        flow: The distribution of real vectors or images.
        count: Number of samples.
        temperature: Standard deviation of the base distribution: below 1, more typical samples.
        using: What solves do their work with.

    Raises:
        ConfigError: If the base distribution has no temperature.
    """
    if temperature == 1.0:
        return flow.sample((count,), using=using)
    if not isinstance(flow.base, StandardNormal):
        kind = type(flow.base).__name__
        raise ConfigError(
            f"temperature: expected 1, a {kind} has no temperature, got {temperature}"
        )
    base = StandardNormal(flow.base.event_shape, temperature=temperature)
    device = next(flow.parameters()).device
    tempered = Flow(base.to(device), flow.bijection, flow.event_shape)
    return tempered.sample((count,), using=using)
