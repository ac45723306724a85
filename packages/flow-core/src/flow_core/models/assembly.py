"""What image flows of all kinds share: scales, squeezes, what leaves, a flat image in the end."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import TypeAlias

from flow_core.base import BaseDistribution, StandardNormal
from flow_core.bijection import Bijection
from flow_core.combinators import Chain, Multiscale
from flow_core.distributions import Flow
from flow_core.layers import Landmark, Reshape, Squeeze

Shape: TypeAlias = tuple[int, int, int]
"""`(channels, height, width)`."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How half of the channels leave after every scale but the last.

    Attributes:
        after_squeeze: Whether the squeeze to the next scale comes first.
        prior: Makes the split prior for the shape before anything leaves, or None.
    """

    after_squeeze: bool
    prior: Callable[[Shape], Bijection | None] = lambda shape: None


@dataclass(frozen=True)
class Scale:
    """One scale of an image flow.

    Attributes:
        layers: In their order, with the squeezes that belong to the scale.
        shape: Of what they make, before anything leaves.
    """

    layers: list[Bijection]
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a kind of flow puts into its scales, each on images half as large as those before.

    Attributes:
        field: The field of the config that asks for so many scales, for errors.
        scales: For every scale, what makes its layers for images of a shape.
        squeeze_first: Whether the first scale works on halved images too.
        split: How channels leave; None where nothing leaves.
        chained: Whether a scale is a chain of its own; one that channels leave always is.
        landmarks: Whether a `Landmark` ends every scale, behind the squeeze to the next one.
        end: Makes the layers on the flattened output of the last scale, of so many values.
        base: Makes the distribution of the latent of so many values, the last of which are the
            output of the last scale, of that shape.
        seen: Whether a `Landmark` named latent ends the flow.
    """

    field: str
    scales: Sequence[Callable[[Shape], Iterable[Bijection]]]
    squeeze_first: bool
    split: Split | None = None
    chained: bool = False
    landmarks: bool = False
    end: Callable[[int], Iterable[Bijection]] = lambda size: ()
    base: Callable[[int, Shape], BaseDistribution] = lambda size, top: StandardNormal((size,))
    seen: bool = False


def assembled(plan: Plan, entrance: Bijection, shape: Shape) -> Flow:
    """The flow of a plan for images in [0, 1], behind what makes real numbers of those.

    Raises:
        ValueError: If the images cannot be halved often enough, or the channels do not fit.
    """
    scales = list(scales_of(plan, shape))
    if plan.split is None:
        parts = [scale.layers for scale in scales]
        layers = [*_joined(parts, plan.chained), *_flat(plan, scales[-1].shape)]
    else:
        layers = [_multiscale(plan, plan.split, scales)]
    size = prod(shape)
    mark = [Landmark("latent", (size,))] if plan.seen else []
    bijection = Chain([entrance, *layers, *mark])
    return Flow(plan.base(size, scales[-1].shape), bijection, shape)


def scales_of(plan: Plan, shape: Shape) -> Iterator[Scale]:
    """The scales of a plan for images of a shape, without what ends the flow.

    Raises:
        ValueError: If the images cannot be halved often enough, or the channels do not fit.
    """
    _require_halvings(plan, shape)
    last = len(plan.scales) - 1
    closes = plan.landmarks or (plan.split is not None and plan.split.after_squeeze)
    for i, make in enumerate(plan.scales):
        opening = plan.squeeze_first if i == 0 else not closes
        shape = squeezed(shape) if opening else shape
        layers = [*_squeezes(opening), *make(shape)]
        closing = closes and i < last
        shape = squeezed(shape) if closing else shape
        seen = [Landmark(f"scale{i}", shape)] if plan.landmarks else []
        yield Scale([*layers, *_squeezes(closing), *seen], shape)
        shape = staying(shape) if plan.split is not None else shape


def _joined(scales: Iterable[list[Bijection]], chained: bool) -> Iterable[Bijection]:
    return map(Chain, scales) if chained else chain.from_iterable(scales)


def _flat(plan: Plan, shape: Shape) -> list[Bijection]:
    return [Reshape.flatten(shape), *plan.end(prod(shape))]


def _multiscale(plan: Plan, split: Split, scales: Sequence[Scale]) -> Bijection:
    """Scales that channels leave; the last keeps its layers on vectors to itself."""
    *before, last = (scale.layers for scale in scales)
    shapes = [scale.shape for scale in scales]
    flatten, *end = _flat(plan, shapes[-1])
    on_vectors = [flatten, *end, Reshape((prod(shapes[-1]),), shapes[-1])] if end else []
    chains = [Chain(layers) for layers in (*before, [*last, *on_vectors])]
    return Multiscale(chains, shapes, [split.prior(shape) for shape in shapes[:-1]])


def staying(shape: Shape) -> Shape:
    """What stays after half of the channels have left."""
    channels, height, width = shape
    return channels - channels // 2, height, width


def squeezed(shape: Shape) -> Shape:
    """What a squeeze makes of a shape."""
    channels, height, width = shape
    return 4 * channels, height // 2, width // 2


def _squeezes(wanted: bool) -> list[Bijection]:
    return [Squeeze()] if wanted else []


def _require_halvings(plan: Plan, shape: Shape) -> None:
    count = len(plan.scales) - (not plan.squeeze_first)
    if shape[1] % 2**count or shape[2] % 2**count:
        raise ValueError(
            f"{plan.field}: images of {shape[1]}x{shape[2]} cannot be halved {count} times; ask "
            "for fewer, or crop or pad the images"
        )
