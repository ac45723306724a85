"""The 2-D flows of Behrmann et al. 2021, beside blocks that the paper does not have.

The released optimizer's `--weight-decay 1e-5` does nothing, so there is none here, and its README
names the program of residual flows for the affine model too.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.experiments.flow2d.config import Flow2dConfig, GridConfig, KindOfFlow
from flow_apps.experiments.toy2d.config import ATOL, DensityName
from flow_apps.registry import Preset

_COMMANDS: dict[KindOfFlow, str] = {
    "affine": "python train_toy_affine.py --data {density}",
    "residual": "python train_toy_resflow.py --data {density} --coeff 0.7",
}
_WORDS: dict[KindOfFlow, str] = {
    "affine": "affine couplings",
    "modified-affine": "modified affine couplings",
    "residual": "residual blocks",
    "monotone": "monotone blocks",
    "sandwich": "blocks of sandwich nets",
}
_FEW_BLOCKS = 10


def _whole(kind: KindOfFlow, density: DensityName) -> Flow2dConfig:
    config = Flow2dConfig(kind=kind, density=density)
    if kind == "sandwich":
        return _sandwich(config, blocks=_FEW_BLOCKS)
    return replace(config, blocks=_FEW_BLOCKS) if kind == "monotone" else config


def _sandwich(config: Flow2dConfig, *, blocks: int) -> Flow2dConfig:
    """Small nets that use their Lipschitz constant."""
    contraction = ContractionConfig(coeff=0.9, atol=ATOL)
    return replace(
        config, blocks=blocks, width=19, depth=2, activation="staircase", contraction=contraction
    )


def _quick(kind: KindOfFlow) -> Flow2dConfig:
    """Of the checkerboard, on a coarse grid."""
    training = TrainingConfig(
        iterations=1000,
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig(warmup=20)),
        figures_every=1000,
        threads=1,
    )
    grid = GridConfig(step=0.2)
    config = Flow2dConfig(kind=kind, blocks=5, width=64, depth=2, grid=grid, training=training)
    if kind == "sandwich":
        return _sandwich(config, blocks=5)
    if kind == "monotone":
        return replace(config, contraction=ContractionConfig(coeff=0.9, atol=ATOL))
    return config


def _presets() -> Iterator[Preset[Flow2dConfig]]:
    for kind, words in _WORDS.items():
        yield Preset(f"quick-{kind}", _quick(kind), f"checkerboard, few {words}")
    for density in get_args(DensityName):
        for kind, words in _WORDS.items():
            command = _COMMANDS.get(kind, "").format(density=density)
            yield Preset(f"{kind}-{density}", _whole(kind, density), f"{density}, {words}", command)


PRESETS = tuple(_presets())
"""Five for a quick look, then five kinds of flows of eight densities."""
