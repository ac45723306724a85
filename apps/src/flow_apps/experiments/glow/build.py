"""The parts of an experiment with invertible convolutions."""

from dataclasses import fields, replace

import torch
from flow_core.dequantization import Dequantized
from flow_core.models import FlowConfig, LabelledFlow, image_flow
from flow_core.settings import Settings
from flow_data import ImageSplits

from flow_apps.config.contraction import ContractionConfig
from flow_apps.experiments.glow.config import GlowConfig
from flow_apps.experiments.glow.loss import (
    GlowLoss,
    LabelledLoss,
    SurrogateLoss,
    leave_approximate_inverses,
)
from flow_apps.experiments.glow.tests import GlowFigures, GlowTests
from flow_apps.figures.images import draw_images
from flow_apps.parts.classification import require_labels
from flow_apps.parts.image_sets import load_images, resolved
from flow_apps.parts.images import ImageBatches, ImageTests
from flow_apps.parts.noise import dequantized
from flow_apps.parts.settings import SplitSettings, kept
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Builders, Loss, Parts, Upkeep
from flow_apps.training.randomness import derive_seed

_CONTRACTION = ContractionConfig()
"""Of exponential convolutions and of noise made by blocks."""


def build_model(config: GlowConfig) -> Dequantized | LabelledFlow:
    """The distribution of the images, of every class if wanted, initialised from its seed alone."""
    density = build_density(config)
    if config.flow.classes is None:
        return density
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "classes"))
        return LabelledFlow(density)


def build_density(config: GlowConfig) -> Dequantized:
    """The distribution of the images."""
    flow_config = FlowConfig(**{f.name: getattr(config.flow, f.name) for f in fields(config.flow)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        flow = image_flow(flow_config, config.images.image_shape)
        return dequantized(flow, config.dequantizer, config.images, _CONTRACTION)


def build_parts(
    config: GlowConfig, model: Dequantized | LabelledFlow, compiled: frozenset[int]
) -> Parts:
    """Images, what the flow is trained on, its likelihood, and pictures."""
    del compiled  # the config refuses it
    using = Settings(memory=kept(config.training))
    images, loss = load_images(config.images), _loss(config, model, using)
    if config.flow.classes is not None:
        require_labels(images, config.flow.classes)
    density = model.density if isinstance(model, LabelledFlow) else model
    data = ImageBatches(images.train, config.training, config.images, density.noise_shape)
    likelihood = ImageTests(density, images, config.images, SplitSettings())
    tests = GlowTests(config, likelihood, loss, data)
    return Parts(
        data=data,
        loss=loss,
        tests=tests,
        figures=GlowFigures(config, tests),
    )


def resolve(config: GlowConfig) -> GlowConfig:
    """The config with the shape of its images."""
    return replace(config, images=resolved(config.images))


def _loss(config: GlowConfig, model: Dequantized | LabelledFlow, using: Settings) -> Loss:
    if isinstance(model, LabelledFlow):
        leave_approximate_inverses(model.density)
        return LabelledLoss(model, config.y_weight, using, config.regularizers)
    if config.flow.linear == "self-normalizing" and config.self_norm.surrogate:
        return SurrogateLoss(model, config.self_norm, using)
    leave_approximate_inverses(model)
    return GlowLoss(model, using, config.regularizers)


def build_upkeep(_config: GlowConfig, model: Dequantized | LabelledFlow) -> Upkeep:
    """What keeps its maps contractions."""
    return LipschitzUpkeep(model, _CONTRACTION)


def read_images(config: GlowConfig) -> ImageSplits:
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
