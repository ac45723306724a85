"""Bijections made of bijections."""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast, final

import torch
from flow_solvers import SolverError, require_kind
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection, common_context_shape, require_bijection
from flow_core.bounds import Bounds, composed
from flow_core.context import Context
from flow_core.maps.lipschitz_map import LipschitzMap
from flow_core.maps.together import bound_together
from flow_core.passes import Pass, zeros
from flow_core.settings import Settings


def call_part(name: str, part: Bijection, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
    """A part of a composition as part of a pass; errors say in which part they arose."""
    try:
        return part(x, how=how)
    except (SolverError, ValueError) as error:
        error.add_note(f"in layer {name}")
        raise


@final
class Chain(Bijection):
    """The composition of bijections, applied first to last.

    Small maps of all layers are bound at once (`bound_together`): nets of one shape share their
    operations.
    """

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

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._through(enumerate(self), x, how)

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._through(reversed(list(enumerate(self))), y, how)

    def _through(
        self, layers: Iterable[tuple[int, Bijection]], x: Tensor, how: Pass
    ) -> tuple[Tensor, Tensor]:
        how = how.holding(bound_together(self.contractions(), how.maps))
        terms: list[Tensor] = []
        for i, layer in layers:
            x, term = call_part(f"layers.{i}", layer, x, how)
            terms.append(term)
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
        self.domain, self.codomain = bijection.codomain, bijection.domain

    def contractions(self) -> Iterable[LipschitzMap]:
        """Those of the inner bijection."""
        return self.bijection.contractions()

    def bounds(self) -> Bounds:
        """Those of the inner bijection, exchanged."""
        return self.bijection.bounds().swapped()

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self.bijection(x, how=how.turned())

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self.bijection(y, how=how.turned())

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
        names: What `features` calls the output of each scale; scale0, scale1, ... unless given.
    """

    def __init__(
        self,
        scales: Sequence[Bijection],
        shapes: Sequence[tuple[int, int, int]],
        priors: Sequence[Bijection | None] | None = None,
        *,
        names: Sequence[str] | None = None,
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
        self.names = _unique_names(names, len(scales))
        self.uses_context = any(scale.uses_context for scale in scales)
        self.context_shape = common_context_shape(scales)
        self.domain = scales[0].domain

    def features(
        self,
        x: Float[Tensor, "batch c h w"],
        *,
        context: Context = None,
        using: Settings | None = None,
    ) -> dict[str, Float[Tensor, "batch _ _ _"]]:
        """The output of every scale by its name, before anything leaves; for classification heads.

        Raises:
            ValueError: As `transform`.
        """
        if context is not None and not self.uses_context:
            raise ValueError("Multiscale: expected no context, as no scale uses one, got some")
        outputs: dict[str, Tensor] = {}
        for i, (name, scale) in enumerate(zip(self.names, self._scales(), strict=True)):
            given = context if scale.uses_context else None
            x = scale.transform(x, context=given, using=using)
            outputs[name] = x
            x = x if i == len(self.shapes) - 1 else self._split(x)[1]
        return outputs

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


def _unique_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    chosen = tuple(f"scale{i}" for i in range(count)) if names is None else tuple(names)
    if len(set(chosen)) != count or len(chosen) != count:
        raise ValueError(
            f"Multiscale: expected a name of its own for each of {count} scales, got {names}; "
            "leave names out for scale0, scale1, ..."
        )
    return chosen
