"""Densities of tables: the recipe of Implicit Normalizing Flows, and flows of other blocks."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.experiments.tabular.config import (
    ATOL,
    BUNDLED_DIMENSIONS,
    PUBLISHED_DIMENSIONS,
    BlockOfTables,
    TableConfig,
    TabularConfig,
)
from flow_apps.registry import Preset

_COMMAND = (
    "python train_tabular.py --data {data} --nblocks 20 --coeff 0.99 --act sin --epsf 1e-5 "
    "--nepochs 10000"
)
_TRAINING_ROWS = {
    "power": 1_659_917,
    "gas": 852_174,
    "hepmass": 315_123,
    "miniboone": 29_556,
    "bsds300": 1_000_000,
}
_BATCH = 1000
_BATCHES = {"wine": 64}  # of 108 rows


def _published(data: str) -> TabularConfig:
    """The published recipe: an epoch is as many steps as it has batches."""
    epoch = ceil(_TRAINING_ROWS[data] / _BATCH)
    return TabularConfig(
        table=TableConfig(data=data),
        block="implicit",
        blocks=20,
        net="feedforward",
        width=128,
        depth=4,
        activation="sin",
        actnorm=False,
        contraction=ContractionConfig(coeff=0.99, atol=ATOL),
        estimator=EstimatorConfig(train="implicit-flow-tabular"),
        training=TrainingConfig(
            iterations=10_000 * epoch,
            batch_size=_BATCH,
            optimizer=OptimizerConfig(learning_rate=1e-3, options={"betas": (0.9, 0.99)}),
            gradient_clip=1.0,
            ema_decay=0.999,
            evaluate_every=epoch,
            figures_every=10 * epoch,
        ),
    )


def _large(data: str) -> Iterator[Preset[TabularConfig]]:
    """Flows of the published tables: the published one, its baseline, and two kinds of ours."""
    implicit = _published(data)
    command = _COMMAND.format(data=data)
    yield Preset(f"{data}-implicit", implicit, f"{data}, an Implicit Normalizing Flow", command)
    residual = replace(implicit, block="residual", blocks=10)
    yield Preset(f"{data}-residual", residual, f"{data}, a Residual Flow, the baseline")
    training = replace(
        TabularConfig().training,
        iterations=50_000,
        batch_size=512,
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=3e-3,
            options={"betas": (0.9, 0.99)},
            schedule=ScheduleConfig(warmup=500, anneal="cosine"),
        ),
        ema_decay=0.999,
        evaluate_every=1000,
        figures_every=5000,
        threads=None,
    )
    table = implicit.table
    sandwich = TabularConfig(table=table, blocks=10, width=128, training=training)
    yield Preset(f"{data}-sandwich", sandwich, f"{data}, Lipschitz by construction")
    dense = replace(sandwich, net="dense", width=64, growth=64, depth=3, activation="cpila")
    yield Preset(f"{data}-monotone", dense, f"{data}, a Monotone Flow")


_BLOCKS: tuple[tuple[BlockOfTables, str], ...] = (
    ("monotone", "a small Monotone Flow"),
    ("residual", "a small i-DenseNet"),
)


def _small(data: str) -> Iterator[Preset[TabularConfig]]:
    """Flows of tables of some hundred rows."""
    usual = TabularConfig()
    training = replace(usual.training, batch_size=_BATCHES.get(data, usual.training.batch_size))
    sandwich = replace(usual, table=TableConfig(data=data), training=training)
    yield Preset(f"{data}-sandwich", sandwich, f"{data}, Lipschitz by construction")
    implicit = replace(sandwich, block="implicit")
    yield Preset(f"{data}-implicit", implicit, f"{data}, a small implicit flow")
    for block, summary in _BLOCKS:
        dense = replace(sandwich, block=block, net="dense", width=64, gain=0.2, activation="cpila")
        yield Preset(f"{data}-{block}", dense, f"{data}, {summary}")


def _presets() -> Iterator[Preset[TabularConfig]]:
    for data in BUNDLED_DIMENSIONS:
        yield from _small(data)
    for data in PUBLISHED_DIMENSIONS:
        yield from _large(data)


PRESETS = tuple(_presets())
"""Tables that scikit-learn brings, then the published ones."""
