"""The one interface of every invertible layer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias, final

import torch
from flow_solvers import without_autocast, without_autocast_backward
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributions import constraints

from flow_core.bounds import Bounds, beside_identity
from flow_core.domain import Domain, LocalBounds
from flow_core.lipschitz.plain import by_lipschitz
from flow_core.maps.lipschitz_map import LipschitzMap
from flow_core.memory.tape import MemoryTape, StepLedger
from flow_core.modules import require_module
from flow_core.passes import Direction, Pass, zeros
from flow_core.record import open_reports
from flow_core.rounding import widened
from flow_core.settings import DEFAULT_SETTINGS, Settings

EventShape: TypeAlias = tuple[int | None, ...]
"""Shape of one sample; None stands for any size."""


class Bijection(nn.Module, ABC):
    """An invertible map of a batch, sample by sample.

    A family gives two hooks, `_transform` and `_inverse`; everything else is here, once: precision,
    checks of arguments, recording. Every log-determinant is log|det ∂output/∂input| of the
    direction that was asked, in nats, of shape `(batch,)`. No method changes a parameter or a
    buffer, except `initialize`.

    Every layer is called by `__call__`, in both directions: hooks, DDP, FSDP and `functional_call`
    see all of them. Compositions pass `how` on and nothing else: `layer(x, how=how)`.

    Args:
        event_shape: Shape of one x where it is known, None in place of a size that may be any.
        output_shape: Shape of one y; that of x unless given.

    Attributes:
        uses_context: Whether the layer, or one inside it, needs a context. A context that nobody
            uses is refused, as is one that is missing.
        context_shape: Shape of the context of one sample where it is known, None in place of a
            size that may be any.
        domain: What values of x must be, as far as it is known; a layer gives NaN outside.
        codomain: What values of y are, likewise.
        composes: Whether it passes on to its parts what `Settings.memory` asks for. Any other layer
            is computed again as a whole.
        is_still: No pass moves its buffers.
    """

    uses_context: bool = False
    context_shape: EventShape | None = None
    domain: constraints.Constraint = constraints.real
    codomain: constraints.Constraint = constraints.real
    composes: bool = False
    is_still: ClassVar[bool] = True

    if TYPE_CHECKING:
        # nn.Module.__call__ is untyped: without this every `layer(x)` is Any for users.
        def __call__(
            self,
            x: Tensor,
            *,
            context: Tensor | None = None,
            using: Settings | None = None,
            how: Pass | None = None,
        ) -> tuple[Tensor, Tensor]:
            """Same as `transform_and_log_det`."""
            ...

    def __init__(
        self,
        event_shape: Sequence[int | None] | None = None,
        output_shape: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape: EventShape | None = _tuple(event_shape)
        self.output_shape: EventShape | None = _tuple(
            event_shape if output_shape is None else output_shape
        )

    @abstractmethod
    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """Map x to y with log|det ∂y/∂x|, or zeros in its place: `how.log_det(x, lambda: ...)`."""

    @abstractmethod
    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """Map y to x with log|det ∂x/∂y|, or zeros in its place."""

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Called before either hook; data-dependent layers take statistics here.

        Further checks of the input go here too.
        """

    def contractions(self) -> Iterable[LipschitzMap]:
        """The maps that a composition outside may bind for this one, with `how.bind` in its hooks.

        None unless the family says so: what a layer does to the maps inside it is its own affair.
        """
        return ()

    def bounds(self) -> Bounds:
        """Proven Lipschitz constants of both directions; infinite unless the family knows them."""
        return Bounds()

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """Proven bounds at all points of a domain, and where they are mapped to.

        `bounds` holds everywhere and is infinite for layers that stretch without an end somewhere;
        on a domain most of them have a bound. Both constants are those of Jacobians: of the
        transform at x, and of the inverse at the y that belongs to it.

        Args:
            domain: Of the input of the direction that is asked, with that of the context.
            direction: Whether the domain is of x or of y.
        """
        return self._mapped(self.bounds(), domain, direction)

    def _mapped(self, bounds: Bounds, domain: Domain, direction: Direction) -> LocalBounds:
        """With an image from the value at one point and the Lipschitz constant."""
        forward = direction == "transform"
        lipschitz = bounds.transform if forward else bounds.inverse
        shape = self.output_shape if forward else self.event_shape
        if self.uses_context or lipschitz == math.inf:
            known = shape is not None and None not in shape
            other = tuple(size or 0 for size in shape or ()) if known else domain.shape
            return LocalBounds(bounds, domain.image(shape=other))
        function = self.transform if forward else self.inverse
        like = next(self.parameters(), None)
        return LocalBounds(bounds, by_lipschitz(function, lipschitz, domain, like).image)

    def bounds_with_context_on(
        self, domain: Domain, direction: Direction = "transform"
    ) -> LocalBounds:
        """Those of (x, h) ↦ (y, h), where the context h is a part of the sample too.

        The image is that of y. Infinite for layers with a context, unless they know.
        """
        bounds, image = self.bounds_on(domain, direction)
        if self.uses_context:
            return LocalBounds(Bounds(), image)
        return LocalBounds(beside_identity(bounds), image)

    @final
    def transform(
        self,
        x: Shaped[Tensor, "*input"],
        *,
        context: Tensor | None = None,
        using: Settings | None = None,
    ) -> Float[Tensor, " batch *out"]:
        """Map x to y, without any log-determinant work.

        Args:
            x: The batch first.
            context: First dimension the batch; where a layer uses one, and only then.
            using: What the call does its work with.

        Raises:
            ValueError: If the layer is not made for such an x or context, or needs a context.
            SolverError: If a sample is not solved, see `Solve`.
        """
        return self(x, how=_call(context, using, wants_log_det=False))[0]

    @final
    def inverse(
        self,
        y: Shaped[Tensor, "*input"],
        *,
        context: Tensor | None = None,
        using: Settings | None = None,
    ) -> Float[Tensor, " batch *shape"]:
        """Map y back to x, without any log-determinant work; arguments as of `transform`."""
        how = _call(context, using, wants_log_det=False).turned()
        return self(y, how=how)[0]

    @final
    def transform_and_log_det(
        self,
        x: Shaped[Tensor, "*input"],
        *,
        context: Tensor | None = None,
        using: Settings | None = None,
    ) -> tuple[Float[Tensor, " batch *out"], Float[Tensor, " batch"]]:
        """Map x to y; the log-determinant is log|det ∂y/∂x|; arguments as of `transform`."""
        return self(x, how=_call(context, using))

    @final
    def inverse_and_log_det(
        self,
        y: Shaped[Tensor, "*input"],
        *,
        context: Tensor | None = None,
        using: Settings | None = None,
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
        """Map y to x; the log-determinant is log|det ∂x/∂y|; arguments as of `transform`."""
        return self(y, how=_call(context, using).turned())

    @final
    def initialize(
        self,
        x: Shaped[Tensor, "*input"],
        *,
        context: Tensor | None = None,
        using: Settings | None = None,
    ) -> Float[Tensor, " batch *out"]:
        """Set data-dependent parameters from a batch, once, and return the transformed batch."""
        how = _call(context, using, wants_log_det=False)
        return self(x, how=how._replace(initializes=True))[0]

    # Final too, which torch's declaration as an attribute does not let one write.
    def forward(
        self,
        x: Shaped[Tensor, "*input"],
        *,
        context: Tensor | None = None,
        using: Settings | None = None,
        how: Pass | None = None,
    ) -> tuple[Float[Tensor, " batch *out"], Float[Tensor, " batch"]]:
        """Same as `transform_and_log_det`; with `how`, a part of a pass that has begun outside."""
        if how is None:
            how = _call(context, using)
        elif context is not None or using is not None:
            raise ValueError(
                f"{type(self).__name__}: expected how alone, which holds context and settings, got "
                "context= or using= beside it; another context is how.given(context)"
            )
        if how.begun:
            return self._run(x, how)
        # Not every caller checks types.
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"expected a tensor, got {type(x).__name__}")
        x, how = self._begin(x, how)
        with without_autocast(x):
            outputs = self._run(x, how)
        without_autocast_backward(outputs, (x, how.context))
        return outputs

    def _run(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """One layer: its checks and its hook."""
        transforms = how.direction == "transform"
        expected = self.event_shape if transforms else self.output_shape
        if expected is not None and not fits(x, expected):
            raise self.refusal("x" if transforms else "y", expected, x)
        self._prepare(x, how)
        y, log_det = self._transform(x, how) if transforms else self._inverse(x, how)
        if how.watch is not None:
            how.watch.watch(self, x, y)
        return y, log_det

    def _begin(self, x: Tensor, how: Pass) -> tuple[Tensor, Pass]:
        """What only the outermost call does."""
        own = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
        x, context = widened(x, how.context, own)
        _check(self, x, context, own)
        silent = torch.compiler.is_compiling() or how.watch is not None
        reports = how.reports if silent else (*open_reports(), *how.reports)
        nothing = None if how.wants_log_det else zeros(x)
        return x, how._replace(
            context=context, reports=reports, begun=True, nothing=nothing, tape=_tape(how)
        )

    def refusal(self, name: str, expected: EventShape, got: Tensor) -> ValueError:
        """The error of a layer that is not made for such samples."""
        sizes = ", ".join("any" if size is None else str(size) for size in ("batch", *expected))
        return ValueError(
            f"{type(self).__name__}: expected {name} of shape ({sizes}), got {tuple(got.shape)}; "
            "the batch comes first: reshape it, or make the layer for that size"
        )


def fits(x: Tensor, expected: EventShape) -> bool:
    """Whether samples of a batch have a shape."""
    return fits_event(x.shape[1:], expected)


def fits_event(shape: torch.Size, expected: EventShape) -> bool:
    """Whether a shape of one sample is one that is expected."""
    return shape == expected or (
        len(shape) == len(expected)
        and all(size in (None, found) for size, found in zip(expected, shape, strict=True))
    )


def require_bijection(name: str, value: object) -> None:
    """Refuse what is no bijection: a class of them, another module, a list.

    Raises:
        TypeError: With what to pass instead.
    """
    require_module(name, value, Bijection, "a Bijection such as ActNorm(channels)")


def _call(context: Tensor | None, using: Settings | None, *, wants_log_det: bool = True) -> Pass:
    """A pass that has not begun."""
    settings = DEFAULT_SETTINGS if using is None else using
    # Not every caller checks types.
    if not isinstance(settings, Settings):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"expected using=Settings(...), got {type(settings).__name__}")
    return Pass(settings, context, wants_log_det=wants_log_det)


def _tape(how: Pass) -> MemoryTape | None:
    """Of a pass that has a graph; compilers decide by themselves what they keep."""
    policy = how.settings.memory
    plain = how.initializes or how.watch is not None or not torch.is_grad_enabled()
    if policy is None or plain or torch.compiler.is_compiling():
        return None
    return MemoryTape(StepLedger(policy))


def _check(layer: Bijection, x: Tensor, context: Tensor | None, own: torch.dtype | None) -> None:
    """Refuse what no layer inside could use, before any work is done."""
    name = type(layer).__name__
    if not x.is_floating_point():
        raise ValueError(f"{name}: expected a floating-point tensor, got {x.dtype}; convert it")
    if x.ndim == 0:
        raise ValueError(f"{name}: expected a batch of samples, got a number; add a dimension")
    if {x.dtype, own} == {torch.float32, torch.float64}:
        raise ValueError(f"{name}: expected x of {own}, as the weights, got {x.dtype}; convert it")
    if context is None:
        if layer.uses_context:
            raise ValueError(f"{name}: expected a context, got None; pass context=")
        return
    if not layer.uses_context:
        raise ValueError(
            f"{name}: expected no context, as no layer uses one, got one of shape "
            f"{tuple(context.shape)}; make the layers with context_features, or leave it out"
        )
    if not context.is_floating_point() or context.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"{name}: expected a floating-point context for each of the {len(x)} samples, got "
            f"{context.dtype} of shape {tuple(context.shape)}"
        )
    if {x.dtype, context.dtype} == {torch.float32, torch.float64}:
        raise ValueError(
            f"{name}: expected a context of {x.dtype}, as x, got {context.dtype}; convert it"
        )


def shape_text(shape: EventShape) -> str:
    """The sizes of a shape, for errors."""
    return ", ".join("any" if size is None else str(size) for size in shape)


def common_context_shape(parts: Iterable[Bijection | LipschitzMap]) -> EventShape | None:
    """The shape of the context of parts that share one; None where they do not agree on any."""
    shapes = [part.context_shape for part in parts if part.context_shape is not None]
    if len({len(shape) for shape in shapes}) != 1:
        return None
    sizes = (set(column) for column in zip(*shapes, strict=True))
    return tuple(found.pop() if len(found) == 1 else None for found in sizes)


def _tuple(shape: Sequence[int | None] | None) -> EventShape | None:
    return None if shape is None else tuple(shape)
