"""A base distribution and a bijection make a density with samples."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from flow_solvers import require_kind
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flow_core.base import BaseDistribution
from flow_core.bijection import Bijection, require_bijection
from flow_core.context import Context
from flow_core.passes import Pass
from flow_core.settings import DEFAULT_SETTINGS, Settings


@final
class Flow(nn.Module):
    """The distribution of x when z = bijection.transform(x) has the base distribution.

    log p(x) = log p_base(z) + log|det ∂z/∂x|. Shapes are those of torch.distributions: x may have
    any number of leading dimensions in front of the event shape; a context of shape
    `(batch, ...)` gives a batch of distributions, and x broadcasts against it. `forward` is
    `log_prob`, which is what DDP, hooks and compile see. `using` chooses what a call does its work
    with.

    Args:
        base: Distribution of z.
        bijection: Maps x to z.
        event_shape: Shape of one x, where it is not the shape of z.
    """

    if TYPE_CHECKING:
        # nn.Module.__call__ is untyped: without this `flow(x)` is Any for users.
        def __call__(
            self,
            x: Tensor,
            context: Tensor | None = None,
            *,
            using: Settings | None = None,
            how: Pass | None = None,
        ) -> Tensor:
            """Same as `log_prob`."""
            ...

    def __init__(
        self,
        base: BaseDistribution,
        bijection: Bijection,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        require_kind("base", base, BaseDistribution, "a base such as StandardNormal(shape)")
        require_bijection("bijection", bijection)
        super().__init__()
        self.event_shape = base.event_shape if event_shape is None else torch.Size(event_shape)
        if self.event_shape.numel() != base.event_shape.numel():
            raise ValueError(
                f"expected as many values in x as in z, got {tuple(self.event_shape)} and "
                f"{tuple(base.event_shape)}"
            )
        self.base = base
        self.bijection = bijection

    def forward(
        self,
        x: Float[Tensor, "*leading"],
        context: Context = None,
        *,
        using: Settings | None = None,
        how: Pass | None = None,
    ) -> Float[Tensor, "*lead"]:
        """Same as `log_prob`; with `how`, as part of a training objective."""
        how = begun("Flow", context, using, how)
        lead, x, context = self._fold(x, how.context)
        z, log_det = self.bijection(x, how=how.given(context))
        return (self.base.log_prob(z) + log_det).reshape(lead)

    def log_prob(
        self,
        x: Float[Tensor, "*leading"],
        context: Context = None,
        *,
        using: Settings | None = None,
    ) -> Float[Tensor, "*lead"]:
        """Log-density of x in nats, of shape sample shape + batch shape.

        Raises:
            ValueError: If x does not end in the event shape, the context is not one that the
                bijection uses, or the settings are not of the exact mode.
        """
        return self(x, context, using=using)

    def sample(
        self,
        shape: Sequence[int] = (),
        context: Context = None,
        *,
        using: Settings | None = None,
    ) -> Float[Tensor, "*leading"]:
        """Draw x of shape `shape` + batch shape + event shape, without a graph."""
        with torch.no_grad():
            return self.rsample(shape, context, using=using)

    def rsample(
        self,
        shape: Sequence[int] = (),
        context: Context = None,
        *,
        using: Settings | None = None,
    ) -> Float[Tensor, "*leading"]:
        """Draw x with gradients to the parameters and the context."""
        lead, z, context = self._draw(shape, context)
        x = self.bijection.inverse(z, context=context, using=sound(using))
        return x.reshape((*lead, *self.event_shape))

    def rsample_and_log_prob(
        self,
        shape: Sequence[int] = (),
        context: Context = None,
        *,
        using: Settings | None = None,
    ) -> tuple[Float[Tensor, "*leading"], Float[Tensor, "*lead"]]:
        """Draw x and its log-density from one pass: log p(x) = log p_base(z) − log|det ∂x/∂z|."""
        lead, z, context = self._draw(shape, context)
        x, log_det = self.bijection.inverse_and_log_det(z, context=context, using=sound(using))
        log_prob = self.base.log_prob(z) - log_det
        return x.reshape((*lead, *self.event_shape)), log_prob.reshape(lead)

    def condition(self, context: Context = None, *, using: Settings | None = None) -> "Conditioned":
        """The distribution given a context, as a torch.distributions object."""
        return Conditioned(self, context, using)

    def initialize(
        self,
        x: Float[Tensor, "*leading"],
        *,
        context: Context = None,
        using: Settings | None = None,
    ) -> Tensor:
        """Set data-dependent parameters from a batch of x, and return z."""
        _, x, context = self._fold(x, context)
        return self.bijection.initialize(x, context=context, using=using)

    def _fold(self, x: Tensor, context: Context) -> tuple[tuple[int, ...], Tensor, Tensor | None]:
        """Fold sample and batch shape into one batch dimension, broadcast x and the context."""
        cut = x.ndim - len(self.event_shape)
        if cut < 0 or x.shape[cut:] != self.event_shape:
            raise ValueError(
                f"Flow: expected a shape ending in {tuple(self.event_shape)}, got {tuple(x.shape)}"
            )
        lead = _broadcast(x.shape[:cut], _batch_shape(context))
        x = x.expand((*lead, *self.event_shape)).reshape(math.prod(lead), *self.event_shape)
        return lead, x, _spread(context, lead)

    def _draw(
        self, shape: Sequence[int], context: Context
    ) -> tuple[tuple[int, ...], Tensor, Tensor | None]:
        lead = (*shape, *_batch_shape(context))
        return lead, self.base.rsample(math.prod(lead)), _spread(context, lead)


@final
class Conditioned(Distribution):
    """A flow given its context and settings, for code that expects torch.distributions."""

    has_rsample = True

    def __init__(self, flow: Flow, context: Context, using: Settings | None = None) -> None:
        self.flow = flow
        self.context = context
        self.using = using
        super().__init__(torch.Size(_batch_shape(context)), flow.event_shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None: the parameters are those of the flow."""
        return {}

    @property
    def support(self) -> constraints.Constraint:
        """The whole space; flows on a smaller domain give NaN outside it."""
        # torch declares this class without types.
        return constraints.independent(  # type: ignore[no-untyped-call]
            constraints.real, len(self.event_shape)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, of shape sample shape + batch shape."""
        return self.flow.log_prob(value, self.context, using=self.using)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw with gradients."""
        return self.flow.rsample(sample_shape, self.context, using=self.using)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw without a graph."""
        return self.flow.sample(sample_shape, self.context, using=self.using)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw with log-densities, from one pass."""
        return self.flow.rsample_and_log_prob(sample_shape, self.context, using=self.using)


def begun(name: str, context: Context, using: Settings | None, how: Pass | None) -> Pass:
    """The pass of a call, from its context and settings or from outside."""
    if how is None:
        return Pass(exact(using), context)
    if context is not None or using is not None:
        raise ValueError(
            f"{name}: expected how alone, which holds context and settings, got context= or using= "
            "beside it; another context is how.given(context)"
        )
    return how


def exact(using: Settings | None) -> Settings:
    """The settings, unless they would make a log-density of what is none.

    Raises:
        ValueError: If they are not of the exact mode.
    """
    settings = sound(using)
    if settings.mode != "exact":
        raise ValueError(
            f"expected settings of the exact mode for log-densities, got {settings.mode}, in which "
            "they belong to samples alone: rsample_and_log_prob gives both"
        )
    return settings


def sound(using: Settings | None) -> Settings:
    """The settings, unless they would give samples a stand-in as their log-density.

    Raises:
        ValueError: If they ask for a surrogate.
    """
    settings = DEFAULT_SETTINGS if using is None else using
    if settings.mode == "surrogate":
        raise ValueError(
            "expected settings for log-densities, got the surrogate mode, which has none; call a "
            "TrainingSurrogate"
        )
    return settings


def _broadcast(shape: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    try:
        # torch declares this function without types.
        return tuple(torch.broadcast_shapes(shape, other))  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(
            f"Flow: expected leading dimensions of x that fit {other[0]} contexts, got "
            f"{tuple(shape)}"
        ) from None


def _batch_shape(context: Context) -> tuple[int, ...]:
    if context is None:
        return ()
    if context.ndim == 0:
        raise ValueError("Flow: expected a context with the batch first, got a number")
    return (context.shape[0],)


def _spread(context: Context, lead: tuple[int, ...]) -> Tensor | None:
    """Repeat a context over the sample dimensions in front of its batch."""
    if context is None:
        return None
    return context.expand(*lead, *context.shape[1:]).reshape(math.prod(lead), *context.shape[1:])
