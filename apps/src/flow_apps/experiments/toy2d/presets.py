"""The 2-D densities of Table 1 of Monotone Flows (Ahn et al. 2022), and quick recipes for them.

Beside them is the recipe of Implicit Normalizing Flows (Lu et al. 2021, Fig. 3 and released code)
for the same densities, with residual blocks of as many maps. Its `--weight-decay 1e-5` does nothing
in the released optimizer, so there is none here.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from flow_apps.config import OptimizerConfig, TrainingConfig
from flow_apps.config.contraction import BlockName, ContractionConfig
from flow_apps.config.optimizer import ScheduleConfig
from flow_apps.experiments.toy2d.config import ATOL, DensityName, Toy2dConfig
from flow_apps.registry import Preset

_COMMAND = (
    "python train_toy.py --data {density} --nblocks 10 --densenet True --learnable_concat True "
    "--start_learnable_concat 25000 --act {activation} --densenet_depth 3 --densenet_growth 16 "
    "--monotone_resolvent {monotone} --brute-force True"
)
_IMPLICIT_COMMAND = (
    "python train_toy.py --data {density} --arch {arch} --nblocks {blocks} --dims 128-128 "
    "--act sin --vnorms 2222 --coeff 0.99 --n-lipschitz-iters 20 --brute-force True "
    "--batch_size 5000 --niters 50000 --lr 1e-3"
)


def _toys() -> Iterator[Preset[Toy2dConfig]]:
    for density in get_args(DensityName):
        yield Preset(f"{density}-sandwich", _sandwich(density), f"{density}, quick to train")
        command = _COMMAND.format(density=density, activation="CPila", monotone=True)
        config = Toy2dConfig(density=density, block="monotone", activation="cpila")
        yield Preset(f"{density}-monotone", config, f"{density}, a Monotone Flow", command)
        command = _COMMAND.format(density=density, activation="CLipSwish", monotone=False)
        config = Toy2dConfig(density=density, block="residual", activation="clipswish")
        yield Preset(f"{density}-idensenet", config, f"{density}, an i-DenseNet", command)
        yield from _implicit_flows(density)


def _implicit_flows(density: DensityName) -> Iterator[Preset[Toy2dConfig]]:
    """Six implicit blocks; as many maps in residual blocks; and maps of the quick recipe."""
    command = _IMPLICIT_COMMAND.format(density=density, arch="implicit", blocks=6)
    config = _lu(density, "implicit", blocks=6)
    yield Preset(f"{density}-impflow", config, f"{density}, an Implicit Normalizing Flow", command)
    # The released code cannot run its residual flows.
    config = _lu(density, "residual", blocks=12)
    yield Preset(f"{density}-resflow", config, f"{density}, a Residual Flow of equal size")
    config = replace(_sandwich(density), block="implicit", blocks=4)
    summary = f"{density}, implicit blocks, quick to train"
    yield Preset(f"{density}-impflow-sandwich", config, summary)


def _lu(density: DensityName, block: BlockName, *, blocks: int) -> Toy2dConfig:
    """The recipe of Implicit Normalizing Flows; Fig. 3 has two thirds of the blocks."""
    return Toy2dConfig(
        density=density,
        block=block,
        blocks=blocks,
        net="feedforward",
        depth=2,
        width=128,
        activation="sin",
        contraction=ContractionConfig(coeff=0.99, atol=ATOL),
        training=TrainingConfig(
            batch_size=5000,
            evaluate_every=1000,
            figures_every=1000,
            compile=True,
            threads=1,
        ),
    )


def _sandwich(density: DensityName) -> Toy2dConfig:
    """Monotone blocks of maps that use their whole Lipschitz constant, see docs/reproduction.md."""
    return Toy2dConfig(
        density=density,
        block="monotone",
        blocks=8,
        net="sandwich",
        depth=2,
        width=19,
        activation="staircase",
        actnorm=True,
        contraction=ContractionConfig(coeff=0.99, atol=ATOL),
        training=TrainingConfig(
            iterations=5000,
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
"""Eight densities with six kinds of flows."""
