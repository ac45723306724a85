"""The tables and the flows of `tables_race.py`: presets of this project, and flows of zuko."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flow_apps.experiments.tabular.config import TableConfig, TabularConfig
from flow_apps.experiments.tabular.data import load_table
from flow_apps.experiments.tabular.model import build_flow
from flow_apps.parts.settings import split_settings, training_settings
from flow_apps.registry import find_preset
from flow_core import Flow, initialize, update_lipschitz
from flow_data import TableSplits
from torch import Tensor

from benchmarks.rivals import Rival, of_zuko

TABLES = ("miniboone", "diabetes", "breast_cancer", "wine")
"""MINIBOONE is a file of some of its rows; the others come with scikit-learn."""


@dataclass(frozen=True)
class Task:
    """A table and one division of it.

    Attributes:
        table: Which one.
        dim: Its columns.
    """

    table: TableConfig
    dim: int

    def splits(self) -> TableSplits:
        """Rows of the three parts, standardised by the first."""
        return load_table(self.table)


def task(name: str, division: int, root: Path | None) -> Task:
    """The table of a name, divided with a seed.

    Args:
        name: One of `TABLES`.
        division: Seed.
        root: Where `miniboone/data.npy` is.

    Raises:
        ValueError: If MINIBOONE is asked for and no folder given.
    """
    table = TableConfig(data=name, division=division)
    if name == "miniboone":
        if root is None:
            raise ValueError("expected --data-root with miniboone/data.npy, got none")
        table = TableConfig(
            data=str(root / name / "data.npy"),
            division=division,
            validation_fraction=0.1,
            test_fraction=0.1,
            noise=0.05,
        )
        table = table.with_columns(load_table(table).columns)
    return Task(table, table.dimensions)


def ours(kind: str) -> Callable[[Task, Tensor, int], Rival]:
    """The flow of the presets of small tables of that kind."""

    def make(task: Task, rows: Tensor, seed: int) -> Rival:
        preset = find_preset(f"wine-{kind}")[1].config
        if not isinstance(preset, TabularConfig):
            raise TypeError(f"expected a preset of tabular, got {preset}")
        training = replace(preset.training, seed=seed)
        config = replace(preset, table=task.table, training=training)
        flow: Flow = build_flow(config)
        initialize(flow, rows)
        using = training_settings(config.estimator, task.dim, frozenset())
        tested = split_settings(config.estimator, task.dim).test
        return Rival(
            flow,
            lambda x: flow(x, using=using),
            lambda x: flow.log_prob(x, using=tested),
            (lambda: None) if config.net == "sandwich" else (lambda: update_lipschitz(flow)),
        )

    return make


def spline(task: Task, rows: Tensor, seed: int) -> Rival:
    """The neural spline flow of zuko."""
    import zuko  # noqa: PLC0415

    del rows, seed
    return of_zuko(zuko.flows.NSF(task.dim, transforms=3, hidden_features=(64, 64)))


def autoregressive(task: Task, rows: Tensor, seed: int) -> Rival:
    """The masked autoregressive flow of zuko."""
    import zuko  # noqa: PLC0415

    del rows, seed
    return of_zuko(zuko.flows.MAF(task.dim, transforms=5, hidden_features=(64, 64)))


RIVALS: Mapping[str, Callable[[Task, Tensor, int], Rival]] = {
    "implicit": ours("implicit"),
    "monotone, dense": ours("monotone"),
    "monotone, sandwich": ours("sandwich"),
    "residual": ours("residual"),
    "zuko NSF": spline,
    "zuko MAF": autoregressive,
}
