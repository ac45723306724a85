"""The 2-D densities of Table 1 of Monotone Flows (Ahn et al. 2022)."""

from collections.abc import Iterator
from typing import get_args

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


PRESETS = tuple(_toys())
"""Eight densities with two kinds of flows."""
