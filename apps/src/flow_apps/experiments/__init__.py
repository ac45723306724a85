"""The experiments: each is a config, a model and an objective; all are trained by one engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flow_apps.experiments.density import DensityObjective
from flow_apps.experiments.fit1d import Fit1dConfig, Fit1dObjective
from flow_apps.experiments.glow import GlowConfig, GlowObjective
from flow_apps.experiments.image import ImageConfig, ImageObjective
from flow_apps.experiments.invertible import InvertibleObjective
from flow_apps.experiments.toy2d import Toy2dConfig, Toy2dObjective

ExperimentConfig = Fit1dConfig | Toy2dConfig | ImageConfig | GlowConfig


@dataclass(frozen=True)
class Experiment:
    """A family of experiments.

    Attributes:
        name: Its command.
        config: Its config dataclass.
        objective: Builds the objective of a config; loads data.
    """

    name: str
    config: type[ExperimentConfig]
    objective: Callable[[Any], InvertibleObjective]


EXPERIMENTS = {
    "fit1d": Experiment("fit1d", Fit1dConfig, Fit1dObjective),
    "toy2d": Experiment("toy2d", Toy2dConfig, Toy2dObjective),
    "image": Experiment("image", ImageConfig, ImageObjective),
    "glow": Experiment("glow", GlowConfig, GlowObjective),
}

__all__ = [
    "EXPERIMENTS",
    "DensityObjective",
    "Experiment",
    "ExperimentConfig",
    "Fit1dConfig",
    "Fit1dObjective",
    "GlowConfig",
    "GlowObjective",
    "ImageConfig",
    "ImageObjective",
    "InvertibleObjective",
    "Toy2dConfig",
    "Toy2dObjective",
]
