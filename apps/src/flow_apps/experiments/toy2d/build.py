"""The parts of an experiment with a two-dimensional density."""

from flow_core.distributions import Flow

from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.experiments.toy2d.data import Toy2dBatches
from flow_apps.experiments.toy2d.model import build_flow
from flow_apps.experiments.toy2d.tests import Toy2dFigures, Toy2dTests
from flow_apps.figures.density import draw_points
from flow_apps.parts.likelihood import NatsLoss
from flow_apps.parts.settings import kept, split_settings, training_settings
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Builders, Parts, Upkeep

_DIM = 2


def build_parts(config: Toy2dConfig, model: Flow, compiled: frozenset[int]) -> Parts:
    """Fresh points, their likelihood, and pictures of the density."""
    tests = Toy2dTests(config, model, split_settings(config.estimator, _DIM))
    using = training_settings(config.estimator, _DIM, compiled, kept(config.training))
    return Parts(
        data=Toy2dBatches(config),
        loss=NatsLoss(model, using),
        tests=tests,
        figures=Toy2dFigures(tests),
    )


def build_upkeep(config: Toy2dConfig, model: Flow) -> Upkeep:
    """What keeps its maps contractions."""
    return LipschitzUpkeep(model, config.contraction)


BUILDERS = Builders(
    model=build_flow, parts=build_parts, upkeep=build_upkeep, draw_samples=draw_points
)
