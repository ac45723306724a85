"""What a model makes of a set of images: round trips, likelihoods, singular values."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from flow_core.dequantization import bits_per_dim
from flow_core.diagnostics import StabilityPart, StabilityReport, stability_report
from flow_core.diagnostics.invertible import InvertibleMap, Point, evaluated, invertible_map
from flow_core.events import per_sample_all, per_sample_sum
from flow_data import ImageSet
from flow_solvers import SolverError
from flow_solvers.precision import in_float64
from jaxtyping import Bool, Float
from torch import Tensor

from flow_apps.outliers.request import OutliersRequest
from flow_apps.outliers.subjects import Subject
from flow_apps.training.randomness import generator, isolated

_PIXELS = 255.0
_EVERYTHING_ELSE: tuple[StabilityPart, ...] = ("reconstruction", "lipschitz", "bounds", "gradients")


@dataclass(frozen=True)
class ImageResults:
    """Of every image.

    Attributes:
        l2: ‖x̂ − x‖₂ of the whole image, x in [0, 1).
        pixels: Mean |x̂ − x| in pixel values of 255, after one round trip.
        pixels_after: The same after `trips` of them.
        nan: Whether the image that comes back has a NaN.
        inf: Whether it has infinite values and no NaN.
        unsolved: Whether a solve failed, so that nothing came back.
        latents: Whether the latent is finite.
        bits: Bits per dimension of the integers, from one draw of the noise.
    """

    l2: Float[Tensor, " images"]
    pixels: Float[Tensor, " images"]
    pixels_after: Float[Tensor, " images"]
    nan: Bool[Tensor, " images"]
    inf: Bool[Tensor, " images"]
    unsolved: Bool[Tensor, " images"]
    latents: Bool[Tensor, " images"]
    bits: Float[Tensor, " images"]


@dataclass(frozen=True)
class SetResults:
    """Of a set.

    Attributes:
        images: Of every image.
        spectrum: Singular values of the first ones; None where none were wanted.
        originals: The first ones in the middle of their bins.
        reconstructions: What comes back of them.
    """

    images: ImageResults
    spectrum: StabilityReport | None
    originals: Float[Tensor, "pictures channels height width"]
    reconstructions: Float[Tensor, "pictures channels height width"]


@torch.no_grad()
def measure(subject: Subject, images: ImageSet, request: OutliersRequest) -> SetResults:
    """Measure a model on images of its shape."""
    model, device = subject.model, next(subject.model.parameters()).device
    noise = dequantization_noise(subject, images, request)
    inverted = invertible_map(model.flow.bijection, subject.using)
    parts: list[ImageResults] = []
    pictures: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(images), request.batch_size):
        where = slice(start, start + request.batch_size)
        integers = images.take(where).to(device)
        x = model.centres(integers)
        found, back = _round_trips(subject, inverted, x, request.trips)
        with isolated(device, request.seed, "ood", images.name, start):
            bits = _bits(subject, integers, noise[where].to(device))
        parts.append(ImageResults(**found, bits=bits.cpu()))
        if start < request.pictures:
            pictures.append((model.visible(x).cpu(), model.visible(back).cpu()))
    empty = torch.empty(0, *subject.shape)
    drawn = [torch.cat([empty, *side])[: request.pictures] for side in zip(*pictures, strict=True)]
    originals, reconstructions = drawn or (empty, empty)
    return SetResults(
        _joined(parts), _spectrum(subject, images, request), originals, reconstructions
    )


def dequantization_noise(
    subject: Subject, images: ImageSet, request: OutliersRequest
) -> Float[Tensor, " images *shape"]:
    """Uniform numbers that belong to the images, so that batches and models do not change them."""
    drawn = generator(request.seed, "ood noise", images.name)
    return torch.rand(len(images), *subject.model.noise_shape, generator=drawn)


def _round_trips(
    subject: Subject, model: InvertibleMap, x: Tensor, trips: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Figures of every image by name, and what comes back of them."""
    z, solved_there = evaluated(model.transform, Point(x))
    back, solved_back = evaluated(model.inverse, Point(z))
    solved, visible = solved_there & solved_back, subject.model.visible
    last = back
    for _ in range(trips - 1):
        again, _ = evaluated(model.transform, Point(last))
        last, _ = evaluated(model.inverse, Point(again))
    once, after = (in_float64(visible(y - x)) for y in (back, last))
    nan = ~per_sample_all(~visible(back).isnan()) & solved
    inf = ~per_sample_all(~visible(back).isinf()) & solved & ~nan
    values = math.prod(subject.shape)
    found = {
        "l2": per_sample_sum(once.square()).sqrt(),
        "pixels": per_sample_sum(once.abs()) * (_PIXELS / values),
        "pixels_after": per_sample_sum(after.abs()) * (_PIXELS / values),
        "nan": nan,
        "inf": inf,
        "unsolved": ~solved,
        "latents": per_sample_all(z.isfinite()),
    }
    return {name: value.cpu() for name, value in found.items()}, back


def _bits(subject: Subject, integers: Tensor, noise: Tensor) -> Float[Tensor, " batch"]:
    """Bits per dimension; NaN of images of which a solve fails."""
    model = subject.model
    bound = partial(model.log_prob_bound, using=subject.using)
    try:
        found = bound(integers, noise=noise)
    except SolverError:
        if len(integers) == 1:
            return torch.full((1,), math.nan, dtype=torch.float64, device=integers.device)
        ones = [_bits(subject, integers[i : i + 1], noise[i : i + 1]) for i in range(len(integers))]
        return torch.cat(ones)
    return bits_per_dim(in_float64(found), model.event_shape)


def _joined(parts: list[ImageResults]) -> ImageResults:
    return ImageResults(
        **{name: torch.cat([getattr(p, name) for p in parts]) for name in vars(parts[0])}
    )


def _spectrum(
    subject: Subject, images: ImageSet, request: OutliersRequest
) -> StabilityReport | None:
    count = min(request.jacobians, len(images))
    if not count:
        return None
    device = next(subject.model.parameters()).device
    with torch.enable_grad(), isolated(device, request.seed, "ood jacobians"):
        return stability_report(
            subject.model.flow.bijection,
            subject.model.centres(images.take(slice(count)).to(device)),
            dtypes=(subject.model.flow.base.dtype,),
            using=subject.using,
            jacobians=count,
            directions=("transform",),
            spectrum=request.singular_values,
            leave_out=_EVERYTHING_ELSE,
        )
