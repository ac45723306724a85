"""Noise from a conditional flow."""

from dataclasses import replace
from typing import cast, final

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from flow_core.base import StandardNormal, inside_unit_interval
from flow_core.dequantization.dequantizer import Dequantizer
from flow_core.distributions import Flow
from flow_core.events import per_sample_sum
from flow_core.settings import DEFAULT_SETTINGS, Settings


@final
class VariationalDequantizer(Dequantizer):
    """u = σ(v) with v from a flow that is conditioned on x.

    With h = encoder(x), z = Φ⁻¹(noise) and v = T⁻¹(z; h), T the bijection of the flow,
    log q(u | x) = log N(z) − log|det ∂v/∂z| − Σ log σ'(v). Uniform numbers nearer to 0 or 1 than
    their precision are moved inside (`StandardNormal.quantile`), and a σ(v) that rounds to 1 is the
    largest number below. Source: Ho et al. 2019 (Flow++), §3.1.

    `initialize` sets data-dependent layers of T so that uniform noise, v = logit(u), goes to z of
    mean 0 and variance 1. A T whose other layers are the identity at first then makes
    u = σ(π/√3·z), all but uniform: the mean of log q is 0.01 nats a value.

    Args:
        flow: Distribution of v, on a standard normal base; its event shape is that of x.
        encoder: Maps x, scaled to [−1, 1], to the context of the flow; without data-dependent
            layers.
        levels: Number of different integers.

    Raises:
        ValueError: If the base is not a `StandardNormal`, the flow takes no context, or there are
            fewer than two levels.
    """

    def __init__(self, flow: Flow, encoder: nn.Module, levels: int) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"expected at least two levels, got {levels}")
        if not isinstance(flow.base, StandardNormal) or not flow.bijection.uses_context:
            raise ValueError(
                "VariationalDequantizer: expected a flow with a StandardNormal base and a "
                f"bijection that uses a context, got {type(flow.base).__name__} and "
                f"uses_context={flow.bijection.uses_context}"
            )
        self.flow = flow
        self.encoder = encoder
        self.levels = levels

    def initialize(
        self,
        x: Integer[Tensor, " batch *event"],
        noise: Float[Tensor, "*noise"] | None = None,
        *,
        using: Settings | None = None,
    ) -> None:
        """Set data-dependent layers of the flow from uniform noise."""
        v = inside_unit_interval(self._uniform(x, noise)).logit()
        self.flow.initialize(v, context=self._context(x), using=_of_densities(using))

    def _draw(self, x: Tensor, noise: Tensor, using: Settings | None) -> tuple[Tensor, Tensor]:
        """σ(v), and its log-density."""
        base, context = cast(StandardNormal, self.flow.base), self._context(x)
        z = base.quantile(noise.reshape(len(noise), *base.event_shape))
        v, log_det = self.flow.bijection.inverse_and_log_det(
            z, context=context, using=_of_densities(using)
        )
        log_slope = logsigmoid(v) + logsigmoid(-v)
        below_one = 1 - torch.finfo(v.dtype).eps / 2
        log_prob = base.log_prob(z) - log_det - per_sample_sum(log_slope)
        return torch.sigmoid(v).clamp(max=below_one), log_prob

    def _context(self, x: Tensor) -> Tensor:
        """What the encoder makes of integers."""
        if x.shape[1:] != self.flow.event_shape:
            raise ValueError(
                "VariationalDequantizer: expected integers of shape (batch, "
                f"{', '.join(map(str, self.flow.event_shape))}), got {tuple(x.shape)}; make its "
                "flow for that size"
            )
        scaled = 2 * x.to(self._like.dtype) / (self.levels - 1) - 1
        return cast(Tensor, self.encoder(scaled))


def _of_densities(using: Settings | None) -> Settings:
    """The settings, in the exact mode: noise has a density where a model is trained on none."""
    return replace(DEFAULT_SETTINGS if using is None else using, mode="exact")
