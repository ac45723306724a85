"""Bijections made of bijections."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import cast, final

import torch
from flow_solvers import SolverError
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection, Context
from flow_core.maps.together import bound_together


@contextmanager
def _located(name: str) -> Generator[None]:
    """Say in which child a solver failed."""
    try:
        yield
    except SolverError as error:
        error.add_note(f"in layer {name}")
        raise


@final
class Chain(Bijection):
    """The composition of bijections, applied first to last."""

    def __init__(self, layers: Sequence[Bijection]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Bijection]:
        return (cast(Bijection, layer) for layer in self.layers)

    def __getitem__(self, index: int) -> Bijection:
        return cast(Bijection, self.layers[index])

    def _named(self) -> list[tuple[str, Bijection]]:
        return [(f"layers.{i}", layer) for i, layer in enumerate(self)]

    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """Apply every layer, first to last."""
        with bound_together(self):
            for name, layer in self._named():
                with _located(name):
                    x = layer.transform(x, context=context)
        return x

    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """Undo every layer, last to first."""
        with bound_together(self):
            for name, layer in reversed(self._named()):
                with _located(name):
                    y = layer.inverse(y, context=context)
        return y

    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """Apply every layer and add up the log-determinants."""
        log_det = _zeros(x)
        with bound_together(self):
            for name, layer in self._named():
                with _located(name):
                    x, term = layer(x, context=context)
                log_det = log_det + term
        return x, log_det

    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """Undo every layer and add up the log-determinants of the inverses."""
        log_det = _zeros(y)
        with bound_together(self):
            for name, layer in reversed(self._named()):
                with _located(name):
                    y, term = layer.inverse_and_log_det(y, context=context)
                log_det = log_det + term
        return y, log_det

    def initialize(self, x: Tensor, *, context: Context = None) -> Tensor:
        """Initialize the layers one after the other, each on the output of the one before."""
        for name, layer in self._named():
            with _located(name):
                x = layer.initialize(x, context=context)
        return x


@final
class Invert(Bijection):
    """A bijection with its directions exchanged.

    Makes the inverse direction a `forward`, for hooks, DDP and compile.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """The inverse of the inner bijection."""
        return self.bijection.inverse(x, context=context)

    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """The inner bijection."""
        return self.bijection.transform(y, context=context)

    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """The inverse of the inner bijection and its log-determinant."""
        return self.bijection.inverse_and_log_det(x, context=context)

    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """The inner bijection and its log-determinant."""
        return self.bijection(y, context=context)

    def initialize(self, x: Tensor, *, context: Context = None) -> Tensor:
        """Refuse: data that arrives here is the output of the inner bijection.

        Raises:
            ValueError: If the inner bijection holds data-dependent parameters that are not set.
        """
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
        return self.transform(x, context=context)


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

    def __init__(
        self,
        scales: Sequence[Bijection],
        shapes: Sequence[tuple[int, int, int]],
        priors: Sequence[Bijection | None] | None = None,
    ) -> None:
        super().__init__()
        priors = [None] * (len(scales) - 1) if priors is None else priors
        if not scales or len(shapes) != len(scales) or len(priors) != len(scales) - 1:
            raise ValueError(
                f"expected one shape per scale and one prior per split, got {len(scales)} scales, "
                f"{len(shapes)} shapes and {len(priors)} priors"
            )
        if any(shape[0] < 2 for shape in shapes[:-1]):
            raise ValueError(f"expected at least two channels before a split, got {shapes}")
        self.scales = nn.ModuleList(scales)
        self.priors = nn.ModuleDict({str(i): p for i, p in enumerate(priors) if p is not None})
        self.shapes = tuple(shapes)

    def features(
        self, x: Float[Tensor, "batch c h w"], *, context: Context = None
    ) -> tuple[Float[Tensor, "batch _ _ _"], ...]:
        """The output of every scale, before anything leaves; for classification heads."""
        outputs: list[Tensor] = []
        for i, scale in enumerate(self._scales()):
            x = scale.transform(x, context=context)
            outputs.append(x)
            x = self._stay(i, x)
        return tuple(outputs)

    def transform(self, x: Tensor, *, context: Context = None) -> Tensor:
        """Image to a flat vector, parts that left first in front."""
        parts: list[Tensor] = []
        for i, scale in enumerate(self._scales()):
            x = scale.transform(x, context=context)
            x = self._leave(i, x, parts, lambda prior, z, h: prior.transform(z, context=h))
        return torch.cat(parts, dim=1)

    def inverse(self, y: Tensor, *, context: Context = None) -> Tensor:
        """Flat vector to image."""
        parts = self._split(y)
        x = parts.pop()
        for i, scale in reversed(list(enumerate(self._scales()))):
            if i < len(self.shapes) - 1:
                prior, part = self._prior(i), parts.pop()
                part = part if prior is None else prior.inverse(part, context=x)
                x = torch.cat([part, x], dim=1)
            x = scale.inverse(x, context=context)
        return x

    def transform_and_log_det(
        self, x: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """Image to a flat vector; log-determinants of scales and priors added up."""
        parts: list[Tensor] = []
        terms: list[Tensor] = []

        def standardise(prior: Bijection, z: Tensor, h: Tensor) -> Tensor:
            """Through a split prior, whose log-determinant is kept."""
            z, term = prior(z, context=h)
            terms.append(term)
            return z

        for i, scale in enumerate(self._scales()):
            with _located(f"scales.{i}"):
                x, term = scale(x, context=context)
            terms.append(term)
            x = self._leave(i, x, parts, standardise)
        return torch.cat(parts, dim=1), torch.stack(terms).sum(0)

    def inverse_and_log_det(
        self, y: Tensor, *, context: Context = None
    ) -> tuple[Tensor, Float[Tensor, " batch"]]:
        """Flat vector to image; log-determinants of the inverses added up."""
        parts = self._split(y)
        x, log_det = parts.pop(), _zeros(y)
        for i, scale in reversed(list(enumerate(self._scales()))):
            if i < len(self.shapes) - 1:
                prior, part = self._prior(i), parts.pop()
                if prior is not None:
                    part, term = prior.inverse_and_log_det(part, context=x)
                    log_det = log_det + term
                x = torch.cat([part, x], dim=1)
            with _located(f"scales.{i}"):
                x, term = scale.inverse_and_log_det(x, context=context)
            log_det = log_det + term
        return x, log_det

    def initialize(self, x: Tensor, *, context: Context = None) -> Tensor:
        """Initialize scale after scale, each split prior on the part that leaves."""
        parts: list[Tensor] = []
        for i, scale in enumerate(self._scales()):
            x = scale.initialize(x, context=context)
            x = self._leave(i, x, parts, lambda prior, z, h: prior.initialize(z, context=h))
        return torch.cat(parts, dim=1)

    def _scales(self) -> list[Bijection]:
        return [cast(Bijection, scale) for scale in self.scales]

    def _prior(self, i: int) -> Bijection | None:
        return cast(Bijection, self.priors[str(i)]) if str(i) in self.priors else None

    def _stay(self, i: int, x: Tensor) -> Tensor:
        return x if i == len(self.shapes) - 1 else x[:, x.shape[1] // 2 :]

    def _leave(
        self,
        i: int,
        x: Tensor,
        parts: list[Tensor],
        standardise: Callable[[Bijection, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Append what leaves after scale i to `parts`, and return what stays."""
        if i == len(self.shapes) - 1:
            parts.append(x.flatten(1))
            return x
        stay, part, prior = self._stay(i, x), x[:, : x.shape[1] // 2], self._prior(i)
        part = part if prior is None else standardise(prior, part, stay)
        parts.append(part.flatten(1))
        return stay

    def _split(self, y: Tensor) -> list[Tensor]:
        """Cut a flat vector into the parts in their image shapes."""
        shapes = [(c // 2, h, w) for c, h, w in self.shapes[:-1]] + [self.shapes[-1]]
        sizes = [c * h * w for c, h, w in shapes]
        if y.ndim != 2 or y.shape[1] != sum(sizes):
            raise ValueError(f"expected shape (batch, {sum(sizes)}), got {tuple(y.shape)}")
        pieces = torch.split(y, sizes, dim=1)
        return [p.reshape(len(y), *s) for p, s in zip(pieces, shapes, strict=True)]


def _zeros(x: Tensor) -> Tensor:
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    return x.new_zeros(x.shape[0], dtype=dtype)
