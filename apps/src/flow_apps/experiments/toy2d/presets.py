"""The 2-D densities of Table 1 of Monotone Flows (Ahn et al. 2022), and quick recipes for them."""

from collections.abc import Iterator
from typing import get_args

from flow_apps.config import OptimizerConfig, TrainingConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.optimizer import ScheduleConfig
from flow_apps.experiments.toy2d.config import DensityName, Toy2dConfig
from flow_apps.registry import Preset

_COMMAND = (
    "python train_toy.py --data {density} --nblocks 10 --densenet True --learnable_concat True "
    "--start_learnable_concat 25000 --act {activation} --densenet_depth 3 --densenet_growth 16 "
    "--monotone_resolvent {monotone} --brute-force True"
)


def _toys() -> Iterator[Preset[Toy2dConfig]]:
    for density in get_args(DensityName):
        command = _COMMAND.format(density=density, activation="CPila", monotone=True)
        config = Toy2dConfig(density=density, block="monotone", activation="cpila")
        yield Preset(f"{density}-monotone", config, f"{density}, a Monotone Flow", command)
        command = _COMMAND.format(density=density, activation="CLipSwish", monotone=False)
        config = Toy2dConfig(density=density, block="residual", activation="clipswish")
        yield Preset(f"{density}-idensenet", config, f"{density}, an i-DenseNet", command)
        yield Preset(f"{density}-sandwich", _sandwich(density), f"{density}, quick to train")


def _sandwich(density: DensityName) -> Toy2dConfig:
    """Monotone blocks of maps that use their whole Lipschitz constant, see docs/reproduction.md."""
    return Toy2dConfig(
        density=density,
        block="monotone",
        blocks=11,
        net="sandwich",
        depth=2,
        activation="staircase",
        actnorm=True,
        contraction=ContractionConfig(coeff=0.99),
        training=TrainingConfig(
            iterations=3000,
            optimizer=OptimizerConfig(
                learning_rate=8e-3,
                options={"betas": (0.9, 0.99)},
                schedule=ScheduleConfig(warmup=50, anneal="cosine"),
            ),
            gradient_clip=5.0,
            ema_decay=0.99,
            evaluate_every=200,
            figures_every=500,
            compile=True,
            threads=1,
        ),
    )


PRESETS = tuple(_toys())
"""Eight densities with three kinds of flows."""
