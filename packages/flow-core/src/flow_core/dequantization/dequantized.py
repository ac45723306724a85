"""The distribution of integers that a flow and a distribution of noise imply."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, final

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor, nn

from flow_core.context import Context
from flow_core.dequantization.dequantizer import Dequantizer
from flow_core.dequantization.padding import Padding
from flow_core.dequantization.variational import VariationalDequantizer
from flow_core.distributions import Flow, begun
from flow_core.events import per_sample_all
from flow_core.modules import require_module
from flow_core.passes import Pass
from flow_core.settings import Settings
from flow_core.statistics import true_on_all_ranks


@final
class Dequantized(nn.Module):
    """The distribution of integers 0 ... levels − 1 that a flow on [0, 1) implies.

    The flow models y = (x + u)/levels. With D values in a sample,
    P(x) = ∫ p(y)·levels^(−D) du over the unit cube, so
    log P(x) ≥ E_q[log p(y) − log q(u | x)] − D·log levels. Source: Ho et al. 2019, eq. 5.
    `forward` is `log_prob_bound`, which is what DDP, hooks and compile see. Everywhere x is of an
    integer dtype.

    Args:
        flow: A distribution of y; its event shape is that of x, with the channels of a padding.
        dequantizer: The distribution of the noise.
        levels: Number of different integers: 256 for 8-bit images, 17 for 8x8 digits.
        padding: Channels of noise behind those of y that the flow models too, see `Padding`; or
            None.

    Attributes:
        event_shape: Shape of a sample of integers.
        noise_shape: Shape of the uniform numbers that the noise of a sample is made of.

    Raises:
        ValueError: If there are fewer than two levels, the dequantizer is made for others or for
            another shape, or the padding leaves no channel.
    """

    if TYPE_CHECKING:
        # nn.Module.__call__ is untyped: without this `model(x)` is Any for users.
        def __call__(
            self,
            x: Tensor,
            context: Tensor | None = None,
            *,
            noise: Tensor | None = None,
            using: Settings | None = None,
            how: Pass | None = None,
        ) -> Tensor:
            """Same as `log_prob_bound`."""
            ...

    def __init__(
        self, flow: Flow, dequantizer: Dequantizer, levels: int, *, padding: Padding | None = None
    ) -> None:
        super().__init__()
        require_module("flow", flow, Flow, "a Flow(base, bijection)")
        require_module("dequantizer", dequantizer, Dequantizer, "a Dequantizer")
        if levels < 2:
            raise ValueError(f"expected at least two levels, got {levels}")
        self.event_shape = _without_padding(flow.event_shape, padding)
        self.noise_shape = flow.event_shape
        if isinstance(dequantizer, VariationalDequantizer):
            _require_fit(dequantizer, self.event_shape, levels)
        self.flow = flow
        self.padding = padding
        self.dequantizer = dequantizer
        self.levels = levels

    def forward(
        self,
        x: Shaped[Tensor, " batch *event"],
        context: Context = None,
        *,
        noise: Float[Tensor, "*noise"] | None = None,
        using: Settings | None = None,
        how: Pass | None = None,
    ) -> Float[Tensor, " batch"]:
        """Same as `log_prob_bound`; with `how`, as part of a training objective."""
        how = begun("Dequantized", context, using, how)
        y, log_noise = self._dequantize(x, noise, how.settings)
        units = self.event_shape.numel() * math.log(self.levels)
        bound = self.flow(y, how=how) - log_noise - units
        possible = per_sample_all(self._inside(x))
        return torch.where(possible, bound, -math.inf)

    def log_prob_bound(
        self,
        x: Shaped[Tensor, " batch *event"],
        context: Context = None,
        *,
        noise: Float[Tensor, "*noise"] | None = None,
        using: Settings | None = None,
    ) -> Float[Tensor, " batch"]:
        """A lower bound of log P(x) in nats from one draw of the noise.

        The bound holds for the mean over draws, and its gradient is unbiased. It is −∞ for samples
        with an integer outside 0 ... levels − 1, which are impossible.

        Args:
            x: Integers.
            context: First dimension the batch.
            noise: Uniform numbers in [0, 1) of `noise_shape`, one for each integer and each value
                of a padding, that the draw is made of; None takes them from the default generator
                of the model's device.
            using: What the flow, and a noise model, do their work with.

        Raises:
            ValueError: If x is not of an integer dtype, or the noise not of `noise_shape`.
        """
        return self(x, context, noise=noise, using=using)

    def importance_bound(
        self,
        x: Shaped[Tensor, " batch *event"],
        samples: int,
        context: Context = None,
        *,
        using: Settings | None = None,
    ) -> Float[Tensor, " batch"]:
        """A tighter lower bound of log P(x): log of the mean over `samples` draws.

        Never below `log_prob_bound` in expectation and log P(x) in the limit. Source: Burda et al.
        2016, eq. 8.

        Raises:
            ValueError: If `samples` is not positive or x is not of an integer dtype.
        """
        if samples < 1:
            raise ValueError(f"expected at least one sample, got {samples}")
        draws = [self(x, context, using=using) for _ in range(samples)]
        return importance_weighted(torch.stack(draws))

    def sample(
        self,
        shape: Sequence[int] = (),
        context: Context = None,
        *,
        using: Settings | None = None,
        on_failure: Literal["raise", "redraw"] = "raise",
    ) -> Integer[Tensor, "*leading"]:
        """Draw integers: the bin that a draw of the flow falls into, the nearest if in none.

        Args:
            shape: Of the sample.
            context: A batch of them gives a batch of distributions.
            using: What the flow does its work with.
            on_failure: What becomes of draws of the flow that are not finite, which fall nowhere:
                they are raised, or drawn again and counted by an open `record()`, see
                `Flow.sample`.

        Raises:
            SampleError: As `Flow.sample`; the text names the layers and counts samples.
            ValueError: As `Flow.sample`.
        """
        if on_failure not in ("raise", "redraw"):
            raise ValueError(
                f"expected on_failure of raise or redraw, got {on_failure!r}; nothing else makes "
                "integers of samples that are not finite"
            )
        y = self.visible(self.flow.sample(shape, context, using=using, on_failure=on_failure))
        return (y * self.levels).floor().clamp(0, self.levels - 1).long()

    def initialize(
        self,
        x: Shaped[Tensor, " batch *event"],
        *,
        context: Context = None,
        noise: Float[Tensor, "*noise"] | None = None,
        using: Settings | None = None,
    ) -> Float[Tensor, " batch *latent"]:
        """Set data-dependent parameters from a batch of integers, and return z.

        Those of the dequantizer first: the flow is set from its noise.

        Args:
            x: Integers.
            context: First dimension the batch.
            noise: As of `log_prob_bound`.
            using: What the flow, and a noise model, do their work with.

        Raises:
            ValueError: If an integer is outside 0 ... levels − 1; only raised here, because
                looking would stop the device at every pass. Else as `log_prob_bound`.
        """
        inside = self._inside(x)
        if not true_on_all_ranks(inside):
            raise ValueError(
                f"expected integers from 0 to {self.levels - 1}, got others here or on another "
                f"rank, the first of them here {x[~inside][:3].tolist()}; set levels to the "
                "number of different values"
            )
        self._require_integers(x)
        own = noise if noise is None else self.visible(self._checked(noise, len(x)))
        self.dequantizer.initialize(x, own, using=using)
        y, _ = self._dequantize(x, noise, using)
        return self.flow.initialize(y, context=context, using=using)

    def visible(self, y: Float[Tensor, "*batch_and_event"]) -> Float[Tensor, "*rest"]:
        """What belongs to the integers of what the flow models: all but the padding."""
        if self.padding is None:
            return y
        return y.narrow(y.ndim - len(self.event_shape), 0, self.event_shape[0])

    def centres(self, x: Shaped[Tensor, " batch *event"]) -> Float[Tensor, " batch *modelled"]:
        """Points that the flow models in the middle of the bins, and of the padding."""
        dtype = self.flow.base.dtype
        y = (x.to(dtype) + 0.5) / self.levels
        half = torch.full((len(x), *self.noise_shape), 0.5, dtype=dtype, device=x.device)
        return self._padded(y, half)[0]

    def _inside(self, x: Tensor) -> Tensor:
        wide = x.long()  # 256 is no uint8
        return (wide >= 0) & (wide < self.levels)

    def _dequantize(
        self, x: Tensor, noise: Tensor | None, using: Settings | None
    ) -> tuple[Tensor, Tensor]:
        """y, and log q of its noise."""
        self._require_integers(x)
        own = noise if noise is None else self.visible(self._checked(noise, len(x)))
        u, log_prob = self.dequantizer.rsample_and_log_prob(x, own, using=using)
        integers = x.to(u.dtype)
        # Rounding of x + u may reach x + 1, which is another integer (and 1 for the last bin).
        ceiling = torch.nextafter(integers + 1, integers)
        y = torch.minimum(integers + u, ceiling) / self.levels
        y, log_padding = self._padded(y, noise)
        return y.to(self.flow.base.dtype), log_prob + log_padding

    def _padded(self, y: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """y and the padding, with log q of it."""
        if self.padding is None:
            return y, y.new_zeros(len(y))
        channels = self.event_shape[0]
        shape = (len(y), self.padding.channels, *self.event_shape[1:])
        uniform = (
            torch.rand(shape, dtype=y.dtype, device=y.device)
            if noise is None
            else (noise[:, channels:].to(y))
        )
        e, log_prob = self.padding.draw(uniform, self.levels)
        return torch.cat([y, e], 1), log_prob

    def _checked(self, noise: Tensor, batch: int) -> Tensor:
        expected = (batch, *self.noise_shape)
        if self.padding is not None and noise.shape != expected:
            raise ValueError(
                f"Dequantized: expected noise of shape {expected}, a number for each integer and "
                f"each value of the padding, got {tuple(noise.shape)}"
            )
        return noise

    def _require_integers(self, x: Tensor) -> None:
        if x.is_floating_point() or x.is_complex():
            raise ValueError(
                f"expected integers, got {x.dtype}; give pixels as 0 ... {self.levels - 1}, "
                "before any scaling"
            )
        if x.shape[1:] != self.event_shape or x.ndim != len(self.event_shape) + 1:
            sizes = ", ".join(str(size) for size in ("batch", *self.event_shape))
            raise ValueError(
                f"Dequantized: expected integers of shape ({sizes}), got {tuple(x.shape)}"
            )


def _without_padding(modelled: torch.Size, padding: Padding | None) -> torch.Size:
    """The shape of integers."""
    if padding is None:
        return modelled
    if not modelled or modelled[0] <= padding.channels:
        raise ValueError(
            f"Dequantized: expected a flow of more channels than the {padding.channels} of the "
            f"padding, got one of shape {tuple(modelled)}"
        )
    return torch.Size((modelled[0] - padding.channels, *modelled[1:]))


def _require_fit(dequantizer: VariationalDequantizer, shape: torch.Size, levels: int) -> None:
    made_for = dequantizer.levels, tuple(dequantizer.flow.event_shape)
    if made_for != (levels, tuple(shape)):
        raise ValueError(
            f"Dequantized: expected a dequantizer for {levels} levels of shape "
            f"{tuple(shape)}, got one for {made_for[0]} of shape {made_for[1]}"
        )


def importance_weighted(bounds: Float[Tensor, " samples *shape"]) -> Float[Tensor, "*shape"]:
    """Log of the mean of what independent draws of the noise say of a likelihood, in nats."""
    return bounds.logsumexp(0) - math.log(len(bounds))


def bits_per_dim(
    log_prob: Float[Tensor, "*batch"], event_shape: Sequence[int]
) -> Float[Tensor, "*batch"]:
    """−log₂ P(x) / D: bits per value of a sample of integers.

    Args:
        log_prob: log P(x) of integers in nats, as `Dequantized` gives it; a log-density of real
            numbers first needs D·log(levels) of its scale subtracted.
        event_shape: Shape of a sample, of D values; channels count.
    """
    return -log_prob / (math.prod(event_shape) * math.log(2))
