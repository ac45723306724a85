"""The parts of an experiment with a generator and a discriminator."""

from dataclasses import replace

import torch
from flow_core.dequantization import Dequantized
from flow_core.settings import Settings
from flow_data import ImageSplits

from flow_apps.experiments.flowgan.config import FlowGanConfig
from flow_apps.experiments.flowgan.discriminators import (
    CONVOLUTIONAL,
    Discriminator,
    FlowDiscriminator,
)
from flow_apps.experiments.flowgan.judge import load_judge
from flow_apps.experiments.flowgan.loss import FlowGanLoss
from flow_apps.experiments.flowgan.tests import FlowGanFigures, FlowGanTests
from flow_apps.experiments.glow.build import build_density
from flow_apps.experiments.glow.build import build_upkeep as build_upkeep_of_glow
from flow_apps.experiments.glow.config import GlowConfig, LayersConfig
from flow_apps.figures.images import draw_images
from flow_apps.parts.image_sets import load_images, resolved
from flow_apps.parts.images import ImageBatches, ImageTests
from flow_apps.parts.settings import SplitSettings, kept
from flow_apps.training import Builders, Parts, Upkeep
from flow_apps.training.randomness import derive_seed


def build_model(config: FlowGanConfig) -> Dequantized:
    """The generator: the flow that `glow` makes of the same config."""
    return build_density(_glow(config, config.flow))


def build_discriminator(config: FlowGanConfig) -> Discriminator:
    """What tells samples from images, initialised from its seed alone.

    Raises:
        ConfigError: If the images are too small for it.
    """
    wanted, shape = config.discriminator, config.images.image_shape
    if wanted.kind == "inv":
        width = config.flow.coupling_width if wanted.width is None else wanted.width
        other = replace(config.training, seed=config.training.seed + 1)
        flow = replace(config.flow, coupling_width=width)
        return FlowDiscriminator(build_density(_glow(replace(config, training=other), flow)).flow)
    make, published = CONVOLUTIONAL[wanted.kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "discriminator"))
        return make(shape, published if wanted.width is None else wanted.width)


def build_parts(config: FlowGanConfig, model: Dequantized, compiled: frozenset[int]) -> Parts:
    """Images, what both networks are trained on, likelihood, stability, samples."""
    del compiled  # the config refuses it
    images = load_images(config.images)
    channels, height, width = config.images.image_shape
    # Noise of an image, a latent of a sample, and a place between both.
    noise_shape = (2 * channels + 1, height, width)
    adversary = build_discriminator(config) if config.weights.adversarial else None
    judge = None
    if config.judge is not None:
        device = next(model.parameters()).device
        judge = load_judge(config.judge, config.images, config.judge_confidence, device)
    likelihood = ImageTests(model, images, config.images, SplitSettings())
    tests = FlowGanTests(likelihood, config, judge)
    return Parts(
        data=ImageBatches(images.train, config.training, config.images, noise_shape),
        loss=FlowGanLoss(model, adversary, config, Settings(memory=kept(config.training))),
        tests=tests,
        figures=FlowGanFigures(tests),
    )


def resolve(config: FlowGanConfig) -> FlowGanConfig:
    """The config with the shape of its images."""
    return replace(config, images=resolved(config.images))


def read_images(config: FlowGanConfig) -> ImageSplits:
    """Real images."""
    return load_images(config.images)


def build_upkeep(config: FlowGanConfig, model: Dequantized) -> Upkeep:
    """What keeps the maps of a generator contractions, where it has any."""
    return build_upkeep_of_glow(_glow(config, config.flow), model)


def _glow(config: FlowGanConfig, flow: LayersConfig) -> GlowConfig:
    return GlowConfig(images=config.images, flow=flow, training=config.training)


BUILDERS = Builders(
    model=build_model,
    parts=build_parts,
    upkeep=build_upkeep,
    resolve=resolve,
    draw_samples=draw_images,
    images=read_images,
)
