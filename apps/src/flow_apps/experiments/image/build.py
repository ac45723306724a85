"""The parts of an experiment with contractive blocks on images."""

from dataclasses import replace

import torch
from flow_core.dequantization import Dequantized
from flow_core.models import ContractiveConfig, image_flow

from flow_apps.experiments.image.config import ImageConfig
from flow_apps.figures.images import draw_images
from flow_apps.parts.image_sets import load_images, resolved
from flow_apps.parts.images import ImageBatches, ImageFigures, ImageTests
from flow_apps.parts.likelihood import BitsLoss
from flow_apps.parts.noise import dequantized
from flow_apps.parts.settings import follow_spectra, solve, test_settings, training_settings
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Builders, Parts, Upkeep
from flow_apps.training.randomness import derive_seed


def build_model(config: ImageConfig) -> Dequantized:
    """The distribution of the images, initialised from its seed alone."""
    made = ContractiveConfig(
        block=config.block,
        scales=config.scales,
        growth=config.growth,
        depth=config.depth,
        activation=config.activation,
        dense_blocks=config.dense_blocks,
        dense_growth=config.dense_growth,
        alpha=config.alpha,
        coeff=config.contraction.coeff,
        concat_bound=config.contraction.concat_bound,
        squeeze_first=config.squeeze_first,
        factor_out=config.factor_out,
    )
    shape, solves = config.images.image_shape, solve(config.contraction)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        flow = image_flow(made, shape, solve=solves)
        model = dequantized(flow, config.dequantizer, config.images)
    follow_spectra(model, config.contraction)
    return model


def build_parts(config: ImageConfig, model: Dequantized, compiled: frozenset[int]) -> Parts:
    """Images, their likelihood, and pictures of samples."""
    images, dim = load_images(config.images), model.flow.event_shape.numel()
    tests = ImageTests(model, images, config.images, test_settings(config.estimator, dim))
    return Parts(
        data=ImageBatches(images.train, config.training, config.images),
        loss=BitsLoss(model, training_settings(config.estimator, dim, compiled)),
        tests=tests,
        figures=ImageFigures(model, tests),
    )


def resolve(config: ImageConfig) -> ImageConfig:
    """The config with the shape of its images."""
    return replace(config, images=resolved(config.images))


def build_upkeep(config: ImageConfig, model: Dequantized) -> Upkeep:
    """What keeps its maps contractions."""
    return LipschitzUpkeep(model, config.contraction)


BUILDERS = Builders(
    model=build_model,
    parts=build_parts,
    upkeep=build_upkeep,
    resolve=resolve,
    draw_samples=draw_images,
)
