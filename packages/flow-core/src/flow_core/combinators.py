"""Bijections made of bijections."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias, cast, final

import torch
from flow_solvers import SolverError, require_kind, without_autocast
from torch import Tensor, nn

from flow_core.bijection import (
    Bijection,
    EventShape,
    common_context_shape,
    require_bijection,
)
from flow_core.bounds import Bounds, beside_identity, composed
from flow_core.domain import Domain, LocalBounds
from flow_core.maps.lipschitz_map import LipschitzMap
from flow_core.maps.together import bound_together
from flow_core.memory.tape import KeptStep, MemoryTape
from flow_core.passes import Direction, Pass, zeros

Part: TypeAlias = tuple[str, Bijection]
"""A part of a composition, and its name there."""


def call_part(name: str, part: Bijection, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
    """A part of a composition as part of a pass; errors say in which part they arose."""
    if how.tape is None:
        return _call(name, part, x, how)
    y, terms = _call_kept([(name, part)], x, how, how.tape)
    return y, terms[0]


def call_parts(parts: Iterable[Part], x: Tensor, how: Pass) -> tuple[Tensor, list[Tensor]]:
    """Parts of a composition one after the other: the output, and their log-determinants."""
    terms: list[Tensor] = []
    if how.tape is None:
        for name, part in parts:
            x, term = _call(name, part, x, how)
            terms.append(term)
        return x, terms
    for group in _groups(parts, how.tape.at_once):
        x, found = _call_kept(group, x, how, how.tape)
        terms.extend(found)
    return x, terms


def composes(part: nn.Module) -> bool:
    """Whether it passes a tape on: what `torch.compile` makes of a composition does not."""
    return isinstance(part, Bijection) and part.composes


def _call(name: str, part: Bijection, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
    try:
        return part(x, how=how)
    except (SolverError, ValueError) as error:
        error.add_note(f"in layer {name}")
        raise


def _groups(parts: Iterable[Part], size: int) -> Iterator[list[Part]]:
    """Neighbours that may be computed again at once; compositions see to their own parts."""
    group: list[Part] = []
    for part in parts:
        if group and (len(group) == size or composes(part[1]) or composes(group[-1][1])):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _call_kept(
    parts: Sequence[Part], x: Tensor, how: Pass, tape: MemoryTape
) -> tuple[Tensor, list[Tensor]]:
    """Parts whose activations are not kept; a composition alone."""
    name, first = parts[0]
    if composes(first):
        y, term = _call(name, first, x, how._replace(tape=tape.below(name)))
        return y, [term]
    there, back = how._replace(tape=None), how.backtracking()
    beside = () if how.context is None else (how.context,)
    steps = [
        KeptStep(
            tape.named(name),
            part,
            partial(_computed, name, part, there),
            partial(_inverted, name, part, back),
            beside,
        )
        for name, part in parts
    ]
    return tape.ledger.run(steps, x)


def _computed(name: str, part: Bijection, how: Pass, x: Tensor) -> tuple[Tensor, Tensor]:
    """A part in the precision of a pass: a backward pass may begin anywhere."""
    with without_autocast(x):
        return _call(name, part, x, how)


def _inverted(name: str, part: Bijection, how: Pass, y: Tensor) -> Tensor:
    return _computed(name, part, how, y)[0]


@final
class Chain(Bijection):
    """The composition of bijections, applied first to last.

    Small maps of all layers are bound at once (`bound_together`): nets of one shape share their
    operations.
    """

    composes = True

    def __init__(self, layers: Sequence[Bijection]) -> None:
        require_kind("layers", layers, (Sequence, nn.ModuleList), "a list of bijections")
        for layer in layers:
            require_bijection("every layer", layer)
        super().__init__(
            layers[0].event_shape if layers else None, layers[-1].output_shape if layers else None
        )
        self.layers = nn.ModuleList(layers)
        self.uses_context = any(layer.uses_context for layer in layers)
        self.context_shape = common_context_shape(layers)
        if layers:
            self.domain, self.codomain = layers[0].domain, layers[-1].codomain

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Bijection]:
        return (cast(Bijection, layer) for layer in self.layers)

    def __getitem__(self, index: int) -> Bijection:
        return cast(Bijection, self.layers[index])

    def contractions(self) -> Iterator[LipschitzMap]:
        """Those of all layers."""
        return (g for layer in self for g in layer.contractions())

    def bounds(self) -> Bounds:
        """The products of those of the layers."""
        return composed(layer.bounds() for layer in self)

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """The products of those of the layers, each on what the one before makes of the domain."""
        found: list[Bounds] = []
        for layer in self if direction == "transform" else reversed(list(self)):
            bounds, domain = layer.bounds_on(domain, direction)
            found.append(bounds)
        return LocalBounds(composed(found), domain)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._through(enumerate(self), x, how)

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._through(reversed(list(enumerate(self))), y, how)

    def _through(
        self, layers: Iterable[tuple[int, Bijection]], x: Tensor, how: Pass
    ) -> tuple[Tensor, Tensor]:
        how = how.holding(bound_together(self.contractions(), how.maps))
        x, terms = call_parts(((f"layers.{i}", layer) for i, layer in layers), x, how)
        # Added up at once: one node of autograd in place of one for every layer.
        return x, how.log_det(x, lambda: torch.stack(terms).sum(0) if terms else zeros(x))


@final
class Invert(Bijection):
    """A bijection with its directions exchanged.

    Makes the inverse direction a `forward`, for hooks, DDP and compile.
    """

    def __init__(self, bijection: Bijection) -> None:
        require_bijection("bijection", bijection)
        super().__init__(bijection.output_shape, bijection.event_shape)
        self.bijection = bijection
        self.uses_context = bijection.uses_context
        self.context_shape = bijection.context_shape
        self.composes = composes(bijection)
        self.domain, self.codomain = bijection.codomain, bijection.domain

    def contractions(self) -> Iterable[LipschitzMap]:
        """Those of the inner bijection."""
        return self.bijection.contractions()

    def bounds(self) -> Bounds:
        """Those of the inner bijection, exchanged."""
        return self.bijection.bounds().swapped()

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """Those of the inner bijection, exchanged."""
        turned: Direction = "inverse" if direction == "transform" else "transform"
        bounds, image = self.bijection.bounds_on(domain, turned)
        return LocalBounds(bounds.swapped(), image)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return call_part("bijection", self.bijection, x, how.turned())

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return call_part("bijection", self.bijection, y, how.turned())

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Refuse to initialize: data that arrives here is the output of the inner bijection."""
        if not how.initializes:
            return
        uninitialized = [
            name
            for name, module in self.bijection.named_modules()
            if not bool(getattr(module, "initialized", True))
        ]
        if uninitialized:
            raise ValueError(
                f"expected every layer inside Invert to be initialized, got {uninitialized} "
                "without statistics; initialize the inner bijection in its own direction first"
            )


@final
class Multiscale(Bijection):
    """Scales that each factor half of the channels out, RealNVP's multi-scale architecture.

    Maps an image `(batch, c, h, w)` to `(batch, c·h·w)`, the parts that left first in front. After
    each scale but the last, `parts[i]` of its channels leave; a learned split prior is a bijection
    of the leaving part with the staying part as its context, that standardises it, so that the
    base stays N(0, I). Source: Dinh et al. 2017, §3.6.

    Args:
        scales: One bijection a scale; each but the last usually ends with a squeeze.
        shapes: `(channels, height, width)` of each scale's output, before anything leaves.
        priors: For each scale but the last, None or the split prior of the leaving part.
    """

    composes = True

    def __init__(
        self,
        scales: Sequence[Bijection],
        shapes: Sequence[tuple[int, int, int]],
        priors: Sequence[Bijection | None] | None = None,
    ) -> None:
        priors = [None] * (len(scales) - 1) if priors is None else priors
        if not scales or len(shapes) != len(scales) or len(priors) != len(scales) - 1:
            raise ValueError(
                f"expected one shape per scale and one prior per split, got {len(scales)} scales, "
                f"{len(shapes)} shapes and {len(priors)} priors"
            )
        for part in (*scales, *(prior for prior in priors if prior is not None)):
            require_bijection("every scale and prior", part)
        if any(shape[0] < 2 for shape in shapes[:-1]):
            raise ValueError(f"expected at least two channels before a split, got {shapes}")
        self._parts = [(c // 2, h, w) for c, h, w in shapes[:-1]] + [shapes[-1]]
        self._sizes = [c * h * w for c, h, w in self._parts]
        first = scales[0].event_shape
        super().__init__((None,) * 3 if first is None else first, (sum(self._sizes),))
        self.scales = nn.ModuleList(scales)
        self.priors = nn.ModuleDict({str(i): p for i, p in enumerate(priors) if p is not None})
        self.shapes = tuple(shapes)
        self.uses_context = any(scale.uses_context for scale in scales)
        self.context_shape = common_context_shape(scales)
        self.domain = scales[0].domain

    def bounds(self) -> Bounds:
        """Those on all images, finite where those of the scales and split priors are."""
        known = self.event_shape is not None and None not in self.event_shape
        if not known and self.uses_context:
            return Bounds()
        shape = self.event_shape if known else self._entering(0)
        return self.bounds_on(Domain(tuple(size or 0 for size in shape or ()))).bounds

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """Products over the scales, where what has left stays as it is."""
        if direction == "inverse":
            return self._back_on(0, domain)
        bounds, images = self._there_on(0, domain)
        return LocalBounds(bounds, _together(images, domain, (sum(self._sizes),)))

    def _there_on(self, i: int, domain: Domain) -> tuple[Bounds, list[Domain]]:
        """From scale i on, and of what leaves."""
        bounds, domain = self._scales()[i].bounds_on(domain)
        if i == len(self.shapes) - 1:
            return bounds, [domain]
        leaving, staying = domain.part(self._parts[i]), domain.part(self._staying(i))
        prior, leaving = self._prior_on(i, leaving, staying, "transform")
        rest, images = self._there_on(i + 1, staying)
        return composed([bounds, prior, beside_identity(rest)]), [leaving, *images]

    def _back_on(self, i: int, domain: Domain) -> LocalBounds:
        """To the input of scale i."""
        part = domain.part(self._parts[i])
        if i == len(self.shapes) - 1:
            return self._scales()[i].bounds_on(part, "inverse")
        rest, staying = self._back_on(i + 1, domain)
        prior, leaving = self._prior_on(i, part, staying, "inverse")
        whole = _together([leaving, staying], domain, self.shapes[i])
        bounds, image = self._scales()[i].bounds_on(whole, "inverse")
        return LocalBounds(composed([bounds, prior, beside_identity(rest)]), image)

    def _prior_on(
        self, i: int, leaving: Domain, staying: Domain, direction: Direction
    ) -> LocalBounds:
        """Of a split prior, which sees what stays."""
        if str(i) not in self.priors:
            return LocalBounds(Bounds(1.0, 1.0), leaving)
        prior = cast(Bijection, self.priors[str(i)])
        bounds, image = prior.bounds_with_context_on(replace(leaving, context=staying), direction)
        return LocalBounds(bounds, replace(image, context=staying.context))

    def _staying(self, i: int) -> tuple[int, int, int]:
        channels, height, width = self.shapes[i]
        return channels - channels // 2, height, width

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """Image to a flat vector, parts that left first in front."""
        parts: list[Tensor] = []
        total = zeros(x)
        for i, scale in enumerate(self._scales()):
            x, term = call_part(f"scales.{i}", scale, x, how)
            total = total + term
            if i < len(self.shapes) - 1:
                part, x = self._split(x)
                part, term = self._standardise(i, part, how.given(x))
                parts.append(part.flatten(1))
                total = total + term
        return torch.cat([*parts, x.flatten(1)], dim=1), total

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """Flat vector to image."""
        parts = [
            piece.reshape(len(y), *shape)
            for piece, shape in zip(torch.split(y, self._sizes, dim=1), self._parts, strict=True)
        ]
        x, total = parts[-1], zeros(y)
        for i, scale in reversed(list(enumerate(self._scales()))):
            if i < len(self.shapes) - 1:
                part, term = self._standardise(i, parts[i], how.given(x))
                x, total = torch.cat([part, x], dim=1), total + term
            x, term = call_part(f"scales.{i}", scale, x, how)
            total = total + term
        return x, total

    def _entering(self, i: int) -> EventShape | None:
        """The shape of an image before scale i, by the inverse of the scale on zeros."""
        like = next(self.parameters(), torch.zeros(()))
        with torch.no_grad():
            image = self._scales()[i].inverse(like.new_zeros(1, *self.shapes[i]))
        return tuple(image.shape[1:])

    def _scales(self) -> list[Bijection]:
        return [cast(Bijection, scale) for scale in self.scales]

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What leaves and what stays."""
        half = x.shape[1] // 2
        return x[:, :half], x[:, half:]

    def _standardise(self, i: int, part: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        """Through the split prior of scale i, in the direction of the pass."""
        if str(i) not in self.priors:
            return part, zeros(part)
        return call_part(f"priors.{i}", cast(Bijection, self.priors[str(i)]), part, how)


def _together(parts: Sequence[Domain], like: Domain, shape: tuple[int, ...]) -> Domain:
    """Samples made of parts one after another."""
    return like.image(
        min(part.lower for part in parts),
        max(part.upper for part in parts),
        math.hypot(*(part.norm for part in parts)),
        shape,
    )
