"""The parts of a fit to a projection."""

from flow_core.distributions import Flow
from flow_core.settings import Settings

from flow_apps.experiments.regression2d.config import Regression2dConfig
from flow_apps.experiments.regression2d.data import Regression2dBatches
from flow_apps.experiments.regression2d.loss import Regression2dLoss
from flow_apps.experiments.regression2d.model import build_flow
from flow_apps.experiments.regression2d.tests import Regression2dTests
from flow_apps.parts.settings import kept
from flow_apps.parts.stability import StabilityFigures
from flow_apps.training import Builders, Parts


def build_parts(config: Regression2dConfig, model: Flow, compiled: frozenset[int]) -> Parts:
    """The same points at every step, and the course of the stability."""
    using = Settings(compiled=compiled, memory=kept(config.training))
    return Parts(
        data=Regression2dBatches(config),
        loss=Regression2dLoss(model, config.regularizers, using),
        tests=Regression2dTests(config, model),
        figures=StabilityFigures(),
    )


BUILDERS = Builders(model=build_flow, parts=build_parts)
