"""The parts of an experiment with a table."""

from dataclasses import replace
from pathlib import Path

from flow_core.distributions import Flow
from flow_data.tabular import plain_names
from torch import Tensor

from flow_apps.experiments.tabular.config import TabularConfig
from flow_apps.experiments.tabular.data import TableBatches, load_table, resolved
from flow_apps.experiments.tabular.model import build_flow
from flow_apps.experiments.tabular.tests import TabularFigures, TabularTests
from flow_apps.figures.pairs import draw_pairs
from flow_apps.parts.likelihood import NatsLoss
from flow_apps.parts.settings import kept, split_settings, training_settings
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Builders, Parts, Upkeep


def build_parts(config: TabularConfig, model: Flow, compiled: frozenset[int]) -> Parts:
    """Rows, their likelihood, and pictures of both."""
    table, dim = load_table(config.table), config.table.dimensions
    tests = TabularTests(model, table, config.table, split_settings(config.estimator, dim))
    using = training_settings(config.estimator, dim, compiled, kept(config.training))
    return Parts(
        data=TableBatches(table.train, config.training, config.table.noise),
        loss=NatsLoss(model, using),
        tests=tests,
        figures=TabularFigures(tests),
    )


def resolve(config: TabularConfig) -> TabularConfig:
    """The config with the names of the columns."""
    return replace(config, table=resolved(config.table))


def build_upkeep(config: TabularConfig, model: Flow) -> Upkeep:
    """What keeps its maps contractions."""
    return LipschitzUpkeep(model, config.contraction)


def _draw(samples: Tensor, path: Path) -> None:
    """Standardised rows, whose columns nobody names here."""
    draw_pairs({"samples": samples}, plain_names(samples.shape[1]), path)


BUILDERS = Builders(
    model=build_flow, parts=build_parts, upkeep=build_upkeep, resolve=resolve, draw_samples=_draw
)
