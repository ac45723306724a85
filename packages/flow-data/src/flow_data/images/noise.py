"""Images of noise: sets that no model of natural images has been trained on.

A plain set is what its name says. The others are what the published program of "Understanding and
mitigating exploding inverses" (Behrmann et al. 2021) calls by that name.
"""

import hashlib
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flow_data.images.fitting import resized
from flow_data.images.imageset import ImageSet
from flow_data.lookup import look_up

_LEVELS = 256
_SPREAD = 0.25
# The published clip of ±0.49 around the middle.
_EDGE = 0.01
_DRAWN_SIDE = 28


def noise_images(
    kind: str, count: int, shape: tuple[int, int, int], *, seed: int = 0, first: int = 0
) -> ImageSet:
    """Images of noise, each of which follows from kind, seed and its own number alone.

    Args:
        kind: `gaussian`: mean ½ and standard deviation ¼ before it is truncated to [0, 1).
            `uniform`: every value equally often. `rademacher`: 0 or 255. Published forms:
            `gaussian-clipped`: N(½, 1) clipped to [.01, .99], of which 62 % are at the ends;
            `gaussian-resized`: N(½, 1) clipped to [0, 1], 28x28, made as large as the images by a
            bilinear filter; `uniform-clipped`: clipped to [.01, .99]; `rademacher-clipped`: .01 or
            .99. Real numbers become the integers floor(256 x).
        count: How many images.
        shape: Channels, height and width.
        seed: Of the set.
        first: Number of the first image.

    Returns:
        Images with 256 levels and no labels (-1), named as their kind.

    Raises:
        ValueError: There is no such kind, or a size is not positive.
    """
    draw = look_up(NOISE, kind, "kind of noise")
    if count < 1 or min(shape) < 1:
        raise ValueError(f"expected at least one image with pixels, got {count} of shape {shape}")
    images = torch.stack(
        [_image(draw, kind, shape, (seed, k)) for k in range(first, first + count)]
    )
    return ImageSet(images, torch.full((count,), -1), _LEVELS, kind)


_Draw = Callable[[tuple[int, int, int], torch.Generator], Float[Tensor, "channels height width"]]


def _image(draw: _Draw, kind: str, shape: tuple[int, int, int], number: tuple[int, int]) -> Tensor:
    # A generator for each image: how many are drawn changes none of them.
    digest = hashlib.sha256(f"{kind} {number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    if kind == "gaussian-resized":
        drawn = _integers(draw((shape[0], _DRAWN_SIDE, _DRAWN_SIDE), generator), _LEVELS - 1)
        return resized(drawn[None], shape[1:])[0]
    return _integers(draw(shape, generator), _LEVELS)


def _integers(values: Tensor, scale: int) -> Tensor:
    return (values * scale).floor().clamp(0, _LEVELS - 1).to(torch.uint8)


def _truncated(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """By the quantiles of the part of the normal distribution that is in [0, 1]."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    end = torch.special.ndtr(torch.tensor(0.5 / _SPREAD, dtype=torch.float64))
    quantiles: Tensor = torch.special.ndtri((1 - end) + u * (2 * end - 1))
    return 0.5 + _SPREAD * quantiles


def _normal(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    return 0.5 + torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _rademacher(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator).double()


def _clipped(draw: _Draw) -> _Draw:
    return lambda shape, generator: draw(shape, generator).clamp(_EDGE, 1 - _EDGE)


def _to_unit(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    return _normal(shape, generator).clamp(0, 1)


NOISE: dict[str, _Draw] = {
    "gaussian": _truncated,
    "uniform": _uniform,
    "rademacher": _rademacher,
    "gaussian-clipped": _clipped(_normal),
    "gaussian-resized": _to_unit,
    "uniform-clipped": _clipped(_uniform),
    "rademacher-clipped": _clipped(_rademacher),
}
