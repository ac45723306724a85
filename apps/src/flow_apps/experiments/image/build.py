"""The parts of an experiment with contractive blocks on images."""

from dataclasses import fields, replace

import torch
from flow_core.dequantization import Dequantized, NormalPadding, Padding, UniformPadding
from flow_core.models import ContractiveConfig, HybridModel, image_flow, scale_heads
from flow_data import ImageSplits

from flow_apps.experiments.image.config import ImageConfig
from flow_apps.figures.images import draw_images
from flow_apps.parts.classification import require_labels, with_classes
from flow_apps.parts.hybrid import HybridFigures, HybridLoss, HybridTests
from flow_apps.parts.image_sets import load_images, resolved
from flow_apps.parts.images import ImageBatches, ImageFigures, ImageTests
from flow_apps.parts.likelihood import BitsLoss
from flow_apps.parts.noise import dequantized
from flow_apps.parts.settings import follow_spectra, kept, solve, split_settings, training_settings
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Builders, Parts, Upkeep
from flow_apps.training.randomness import derive_seed

_LAYERS = {f.name for f in fields(ContractiveConfig)} & {f.name for f in fields(ImageConfig)}
"""What both configs say about the layers of the flow, by the same names."""


def build_model(config: ImageConfig) -> Dequantized | HybridModel:
    """The distribution of the images, with heads of a hybrid, initialised from its seed alone."""
    contraction = config.contraction
    made = ContractiveConfig(
        coeff=contraction.coeff,
        concat_bound=contraction.concat_bound,
        landmarks=config.task == "hybrid",
        **{name: getattr(config, name) for name in _LAYERS},
    )
    channels, height, width = config.images.image_shape
    shape = (channels + config.padding, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        flow = image_flow(made, shape, solve=solve(contraction))
        density = dequantized(
            flow, config.dequantizer, config.images, contraction, padding=_padding(config)
        )
        model = _with_heads(density, config) if config.task == "hybrid" else density
    follow_spectra(model, contraction)
    return model


def _with_heads(density: Dequantized, config: ImageConfig) -> HybridModel:
    heads = config.hybrid.heads
    return HybridModel(
        density, scale_heads(density, heads.classes_of(config.images), heads.channels)
    )


def build_parts(
    config: ImageConfig, model: Dequantized | HybridModel, compiled: frozenset[int]
) -> Parts:
    """Images, their likelihood, their classes where the model tells them, and pictures."""
    density = model.density if isinstance(model, HybridModel) else model
    images, dim = load_images(config.images), density.flow.event_shape.numel()
    data = ImageBatches(images.train, config.training, config.images, density.noise_shape)
    tests = ImageTests(density, images, config.images, split_settings(config.estimator, dim))
    using = training_settings(config.estimator, dim, compiled, kept(config.training))
    if not isinstance(model, HybridModel):
        return Parts(data, BitsLoss(density, using), tests, ImageFigures(density, tests))
    require_labels(images, config.hybrid.heads.classes_of(config.images))
    weight = config.hybrid.likelihood_weight
    both = HybridTests(model, tests, weight)
    return Parts(data, HybridLoss(model, weight, using), both, HybridFigures(both))


def _padding(config: ImageConfig) -> Padding | None:
    kind = {"uniform": UniformPadding, "normal": NormalPadding}[config.padding_noise]
    return kind(config.padding) if config.padding else None


def resolve(config: ImageConfig) -> ImageConfig:
    """The config with the shape of its images, and the number of their classes."""
    config = replace(config, images=resolved(config.images))
    if config.task == "density":
        return config
    heads = with_classes(config.hybrid.heads, config.images)
    return replace(config, hybrid=replace(config.hybrid, heads=heads))


def build_upkeep(config: ImageConfig, model: Dequantized | HybridModel) -> Upkeep:
    """What keeps its maps contractions."""
    return LipschitzUpkeep(model, config.contraction)


def read_images(config: ImageConfig) -> ImageSplits:
    """Real images."""
    return load_images(config.images)


BUILDERS = Builders(
    model=build_model,
    parts=build_parts,
    upkeep=build_upkeep,
    resolve=resolve,
    draw_samples=draw_images,
    images=read_images,
)
