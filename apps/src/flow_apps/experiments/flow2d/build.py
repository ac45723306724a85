"""The parts of an experiment with a two-dimensional flow and a grid."""

from collections.abc import Mapping
from pathlib import Path

from flow_core.distributions import Flow

from flow_apps.experiments.flow2d.config import Flow2dConfig
from flow_apps.experiments.flow2d.maps import GridMaps
from flow_apps.experiments.flow2d.model import build_flow
from flow_apps.experiments.toy2d.data import Toy2dBatches
from flow_apps.experiments.toy2d.tests import Toy2dFigures, Toy2dTests
from flow_apps.figures.density import draw_points
from flow_apps.parts.likelihood import NatsLoss
from flow_apps.parts.settings import kept, split_settings, training_settings
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Builders, Parts, Upkeep

_DIM = 2


class Flow2dTests(Toy2dTests):
    """Those of densities, with what the grid tells."""

    def __init__(self, config: Flow2dConfig, model: Flow) -> None:
        super().__init__(config.toy, model, split_settings(config.estimator, _DIM))
        self.maps = GridMaps(config, model)

    def audit(self) -> Mapping[str, object]:
        """Round trip of points of the density, and figures of the maps."""
        return {**super().audit(), "grid": self.maps.figures()}


class Flow2dFigures:
    """The density, and the maps."""

    def __init__(self, tests: Flow2dTests) -> None:
        self.tests = tests
        self.density = Toy2dFigures(tests)

    def draw(self, folder: Path, step: int) -> None:
        """Two pictures, and the maps as numbers."""
        self.density.draw(folder, step)
        self.tests.maps.draw(folder, step)


def build_parts(config: Flow2dConfig, model: Flow, compiled: frozenset[int]) -> Parts:
    """Fresh points, their likelihood, and pictures of the density and of the inverse."""
    tests = Flow2dTests(config, model)
    using = training_settings(config.estimator, _DIM, compiled, kept(config.training))
    return Parts(
        data=Toy2dBatches(config.toy),
        loss=NatsLoss(model, using),
        tests=tests,
        figures=Flow2dFigures(tests),
    )


def build_upkeep(config: Flow2dConfig, model: Flow) -> Upkeep:
    """What keeps its maps contractions."""
    return LipschitzUpkeep(model, config.contraction)


BUILDERS = Builders(
    model=build_flow, parts=build_parts, upkeep=build_upkeep, draw_samples=draw_points
)
