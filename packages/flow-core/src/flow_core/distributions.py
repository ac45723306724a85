"""A base distribution and a bijection make a density with samples."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flow_core.base import StandardNormal
from flow_core.bijection import (
    Bijection,
    EventShape,
    fits_event,
    require_bijection,
    shape_text,
)
from flow_core.context import Context, broadcast_batch, spread
from flow_core.finite_samples import OnBroken, inverted
from flow_core.passes import Pass
from flow_core.settings import DEFAULT_SETTINGS, Settings
from flow_core.torch_base import Base, as_base


@final
class Flow(nn.Module):
    """The distribution of x when z = bijection.transform(x) has the base distribution.

    log p(x) = log p_base(z) + log|det ∂z/∂x|. Shapes are those of torch.distributions: x may have
    any number of leading dimensions in front of the event shape. So may a context in front of the
    `context_shape` of the bijection: they are the batch shape of as many distributions, and x
    broadcasts against it. Where a bijection does not know that shape, the first dimension of a
    context is the batch. `forward` is `log_prob`, which is what DDP, hooks and compile see. `using`
    chooses what a call does its work with.

    Args:
        base: Distribution of z: a `BaseDistribution`, one of torch, or a module that makes one of
            torch, see `TorchBase`.
        bijection: Maps x to z.
        event_shape: Shape of one x, where it is not the shape of z.

    Raises:
        TypeError: If the base is none of these.
        ValueError: If the base is of a batch, discrete, or of another shape than the bijection.
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
        base: Base,
        bijection: Bijection,
        event_shape: Sequence[int] | None = None,
    ) -> None:
        latent_distribution = as_base(base)
        require_bijection("bijection", bijection)
        super().__init__()
        self.base = latent_distribution
        latent = self.base.event_shape
        self.event_shape = latent if event_shape is None else torch.Size(event_shape)
        if self.event_shape.numel() != latent.numel():
            raise ValueError(
                f"expected as many values in x as in z, got {tuple(self.event_shape)} and "
                f"{tuple(latent)}"
            )
        _require_shape("a base", latent, bijection.output_shape, bijection)
        _require_shape("an event_shape", self.event_shape, bijection.event_shape, bijection)
        self.bijection = bijection
        self.register_load_state_dict_post_hook(_place_base)  # type: ignore[no-untyped-call]  # torch's

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
        on_failure: OnBroken = "return",
    ) -> Float[Tensor, "*leading"]:
        """Draw x of shape `shape` + batch shape + event shape, without a graph.

        Args:
            shape: Of the sample.
            context: A batch of them gives a batch of distributions.
            using: What the call does its work with.
            on_failure: What becomes of samples that are not finite, because a layer overflows or
                is asked for a value out of its range. return: they stay. raise: they are an error
                that names the layers. redraw: a new draw takes the place of each, until all are
                finite, which are draws given that they are. An open `record()` counts them.

        Raises:
            SampleError: If some are not finite and that is to be raised, or 100 new draws were not
                either.
            ValueError: As `log_prob`, but for the mode, which may be approximate.
        """
        if on_failure not in get_args(OnBroken):
            choices = ", ".join(get_args(OnBroken))
            raise ValueError(f"expected on_failure of {choices}, got {on_failure!r}")
        with torch.no_grad():
            lead, z, context = self._draw(shape, context)
            how = Pass(sound(using), context, direction="inverse", wants_log_det=False)
            x = inverted(self.base, self.bijection, z, how, on_failure)
            return x.reshape((*lead, *self.event_shape))

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

    def condition(
        self,
        context: Context = None,
        *,
        using: Settings | None = None,
        validate_args: bool | None = None,
    ) -> "Conditioned":
        """The distribution given a context, as a torch.distributions object."""
        return Conditioned(self, context, using, validate_args=validate_args)

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

    def batch_shape(self, context: Context) -> torch.Size:
        """Of the distributions given a context: its dimensions in front of those of one sample.

        Raises:
            ValueError: If the context has too few dimensions.
        """
        if context is None:
            return torch.Size()
        shape = self.bijection.context_shape
        if shape is None:
            return context.shape[:1]
        batch = context.ndim - len(shape)
        if batch < 0:
            raise ValueError(
                f"Flow: expected a context of shape (..., {shape_text(shape)}), got "
                f"{tuple(context.shape)}"
            )
        return context.shape[:batch]

    def _fold(self, x: Tensor, context: Context) -> tuple[tuple[int, ...], Tensor, Tensor | None]:
        """Fold sample and batch shape into one batch dimension, broadcast x and the context."""
        leading = _leading(x, self.event_shape)
        lead = broadcast_batch(leading, self.batch_shape(context))
        x = x.expand((*lead, *self.event_shape)).reshape(math.prod(lead), *self.event_shape)
        return lead, x, self._spread(context, lead)

    def _draw(
        self, shape: Sequence[int], context: Context
    ) -> tuple[tuple[int, ...], Tensor, Tensor | None]:
        lead = (*shape, *self.batch_shape(context))
        return lead, self.base.rsample(math.prod(lead)), self._spread(context, lead)

    def _spread(self, context: Context, lead: tuple[int, ...]) -> Tensor | None:
        """Repeat a context over the sample dimensions in front of its batch."""
        return None if context is None else spread(context, len(self.batch_shape(context)), lead)


class Conditioned(Distribution):
    """A flow given its context and settings, for code that expects torch.distributions.

    A context that is as one sample has it, where the bijection knows its shape, makes one
    distribution; `batch_shape` is what a context has in front of that. For Pyro, which wants its
    own methods beside these, inherit them: `class PyroFlow(Conditioned, TorchDistributionMixin)`.

    Args:
        flow: The flow.
        context: Its context.
        using: What calls do their work with.
        validate_args: Whether values are checked to be in the support, as of all distributions.
    """

    has_rsample: bool

    def __init__(
        self,
        flow: Flow,
        context: Context = None,
        using: Settings | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self._set(flow, context, using)
        super().__init__(flow.batch_shape(context), flow.event_shape, validate_args=validate_args)

    def _set(self, flow: Flow, context: Context, using: Settings | None) -> None:
        self.flow, self.context, self.using = flow, context, using
        self.has_rsample = flow.base.has_rsample

    def expand(
        self, batch_shape: Sequence[int], _instance: "Conditioned | None" = None
    ) -> "Conditioned":
        """The same distribution for each of a larger batch."""
        new = type(self).__new__(type(self)) if _instance is None else _instance
        size = torch.Size(batch_shape)
        # Refuses what this batch cannot be repeated to, also where there is no context.
        torch.empty(self.batch_shape, device="meta").expand(size)
        context = self.context
        if context is not None:
            context = context.expand(size + context.shape[len(self.batch_shape) :])
        new._set(self.flow, context, self.using)
        super(Conditioned, new).__init__(size, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        """What it is made of, and its shapes."""
        base, bijection = type(self.flow.base).__name__, type(self.flow.bijection).__name__
        context = None if self.context is None else tuple(self.context.shape)
        return (
            f"Conditioned(base: {base}, bijection: {bijection}, context: {context}, "
            f"batch_shape: {tuple(self.batch_shape)}, event_shape: {tuple(self.event_shape)})"
        )

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None: the parameters are those of the flow."""
        return {}

    @property
    def support(self) -> constraints.Constraint:
        """The domain of the bijection, as far as that is known."""
        # torch declares this class without types.
        return constraints.independent(  # type: ignore[no-untyped-call]
            self.flow.bijection.domain, len(self.event_shape)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, of shape sample shape + batch shape."""
        if self._validate_args and value.numel():  # torch cannot check what is empty
            self._validate_sample(value)
        lead = broadcast_batch(_leading(value, self.event_shape), self.batch_shape)
        x = value.expand((*lead, *self.event_shape))
        x = x.reshape(math.prod(lead), *self.event_shape)
        return self.flow.log_prob(x, self._spread(lead), using=self.using).reshape(lead)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw with gradients."""
        lead, count = self._lead(sample_shape)
        x = self.flow.rsample(count, self._spread(lead), using=self.using)
        return x.reshape((*lead, *self.event_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw without a graph."""
        lead, count = self._lead(sample_shape)
        x = self.flow.sample(count, self._spread(lead), using=self.using)
        return x.reshape((*lead, *self.event_shape))

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw with log-densities, from one pass."""
        lead, count = self._lead(sample_shape)
        context = self._spread(lead)
        x, log_prob = self.flow.rsample_and_log_prob(count, context, using=self.using)
        return x.reshape((*lead, *self.event_shape)), log_prob.reshape(lead)

    def _lead(self, sample_shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sample and batch shape, and the sample shape for the flow when both are folded."""
        lead = (*sample_shape, *self.batch_shape)
        return lead, () if self.context is not None else (math.prod(lead),)

    def _spread(self, lead: tuple[int, ...]) -> Tensor | None:
        """The context over all of the dimensions, folded into one."""
        context = self.context
        return None if context is None else spread(context, len(self.batch_shape), lead)


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


def _leading(x: Tensor, event_shape: torch.Size) -> torch.Size:
    """The dimensions in front of the event shape."""
    cut = x.ndim - len(event_shape)
    if cut < 0 or x.shape[cut:] != event_shape:
        raise ValueError(
            f"Flow: expected a shape ending in {tuple(event_shape)}, got {tuple(x.shape)}"
        )
    return x.shape[:cut]


def _require_shape(
    what: str, found: torch.Size, expected: EventShape | None, bijection: Bijection
) -> None:
    if expected is not None and not fits_event(found, expected):
        raise ValueError(
            f"Flow: expected {what} of shape ({shape_text(expected)}), as its "
            f"{type(bijection).__name__} has it, got {tuple(found)}; event_shape= is the shape of "
            "one x"
        )


def _place_base(flow: nn.Module, _: object) -> None:
    """Let samples come in the precision and from where the numbers of a loaded state are.

    Nothing else moves the base of a model that takes a state by `assign=True`. Of a bijection in
    several places only the base without memory is moved, to the first of them.
    """
    if isinstance(flow, Flow) and isinstance(flow.base, StandardNormal):
        state = [*flow.bijection.parameters(), *flow.bijection.buffers()]
        state = [t for t in state if t.is_floating_point() and not t.is_meta]
        alike = len({(t.dtype, t.device) for t in state}) == 1
        if flow.base.is_on_meta or alike:
            flow.base.follow(state[0] if state else torch.empty(0, device="cpu"))
