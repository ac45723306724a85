"""The parts of an experiment with classes of images."""

from dataclasses import replace
from functools import partial

from flow_core.settings import Settings

from flow_apps.experiments.classify.config import ClassifyConfig
from flow_apps.experiments.classify.model import build_model
from flow_apps.parts.classification import (
    ClassificationLoss,
    ClassificationTests,
    Classifier,
    ConfusionFigure,
    require_labels,
    with_classes,
)
from flow_apps.parts.image_sets import load_images, resolved
from flow_apps.parts.images import ImageBatches
from flow_apps.parts.noise import within_bins
from flow_apps.parts.settings import kept
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Builders, Parts, Upkeep


def build_parts(config: ClassifyConfig, model: Classifier, compiled: frozenset[int]) -> Parts:
    """Images and their classes, and which are taken for which."""
    images = load_images(config.images)
    require_labels(images, config.heads.classes_of(config.images))
    reals = partial(within_bins, levels=config.images.levels)
    tests = ClassificationTests(model, images, config.images, reals)
    using = Settings(compiled=compiled, memory=kept(config.training))
    return Parts(
        data=ImageBatches(images.train, config.training, config.images, config.images.image_shape),
        loss=ClassificationLoss(model, config.images.levels, noise=config.noise, using=using),
        tests=tests,
        figures=ConfusionFigure(tests),
    )


def resolve(config: ClassifyConfig) -> ClassifyConfig:
    """The config with the shape and the number of classes of its images."""
    images = resolved(config.images)
    return replace(config, images=images, heads=with_classes(config.heads, images))


def build_upkeep(config: ClassifyConfig, model: Classifier) -> Upkeep:
    """What keeps its maps contractions."""
    return LipschitzUpkeep(model, config.contraction)


BUILDERS = Builders(model=build_model, parts=build_parts, upkeep=build_upkeep, resolve=resolve)
