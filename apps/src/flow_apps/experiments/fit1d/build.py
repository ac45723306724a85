"""The parts of a one-dimensional fit."""

from flow_core.distributions import Flow
from flow_core.settings import Settings

from flow_apps.experiments.fit1d.config import Fit1dConfig
from flow_apps.experiments.fit1d.data import Fit1dBatches
from flow_apps.experiments.fit1d.loss import FitLoss
from flow_apps.experiments.fit1d.model import build_flow
from flow_apps.experiments.fit1d.tests import Fit1dFigures, Fit1dTests
from flow_apps.parts.settings import kept
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Builders, Parts, Upkeep


def build_parts(config: Fit1dConfig, model: Flow, compiled: frozenset[int]) -> Parts:
    """Fresh points, the error of the fit there, and its picture."""
    return Parts(
        data=Fit1dBatches(config),
        loss=FitLoss(model, Settings(compiled=compiled, memory=kept(config.training))),
        tests=Fit1dTests(config, model, Settings()),
        figures=Fit1dFigures(config, model),
    )


def build_upkeep(config: Fit1dConfig, model: Flow) -> Upkeep:
    """What keeps its maps contractions."""
    return LipschitzUpkeep(model, config.contraction)


BUILDERS = Builders(model=build_flow, parts=build_parts, upkeep=build_upkeep)
