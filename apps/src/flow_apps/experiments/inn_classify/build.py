"""The parts of an experiment with an invertible classifier."""

from dataclasses import dataclass, replace
from pathlib import Path

from flow_core.models import LatentClassifier
from flow_core.settings import Settings

from flow_apps.experiments.inn_classify.config import InnClassifyConfig
from flow_apps.experiments.inn_classify.loss import InnLoss
from flow_apps.experiments.inn_classify.model import build_model
from flow_apps.experiments.inn_classify.tests import InnTests
from flow_apps.parts.classification import ConfusionFigure, require_labels, with_classes
from flow_apps.parts.image_sets import load_images, resolved
from flow_apps.parts.images import ImageBatches
from flow_apps.parts.settings import kept
from flow_apps.parts.stability import StabilityFigures
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Builders, Figures, Parts, Upkeep


def build_parts(
    config: InnClassifyConfig, model: LatentClassifier, compiled: frozenset[int]
) -> Parts:
    """Images and their classes, which are taken for which, and the course of the stability."""
    images = load_images(config.images)
    require_labels(images, config.heads.classes_of(config.images))
    using = Settings(compiled=compiled)
    tests = InnTests(model, images, config, using)
    return Parts(
        data=ImageBatches(images.train, config.training, config.images, config.images.image_shape),
        loss=InnLoss(model, config, replace(using, memory=kept(config.training))),
        tests=tests,
        figures=_Both(ConfusionFigure(tests.classes), StabilityFigures()),
    )


def resolve(config: InnClassifyConfig) -> InnClassifyConfig:
    """The config with the shape and the number of classes of its images."""
    images = resolved(config.images)
    return replace(config, images=images, heads=with_classes(config.heads, images))


def build_upkeep(config: InnClassifyConfig, model: LatentClassifier) -> Upkeep:
    """What keeps the maps of contractive blocks contractions."""
    return LipschitzUpkeep(model, config.contraction)


@dataclass(frozen=True)
class _Both:
    """Pictures of two kinds."""

    first: Figures
    second: Figures

    def draw(self, folder: Path, step: int) -> None:
        """One after the other."""
        self.first.draw(folder, step)
        self.second.draw(folder, step)


BUILDERS = Builders(model=build_model, parts=build_parts, upkeep=build_upkeep, resolve=resolve)
