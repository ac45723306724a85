"""Monotone Flows (Ahn et al. 2022): the 1-D fits of Fig. 4 and the 2-D densities of Table 1."""

from collections.abc import Iterator

from flow_data.toy import TOY_DENSITIES

from flow_apps.experiments.fit1d import Fit1dConfig, Layer
from flow_apps.experiments.toy2d import Toy2dConfig
from flow_apps.presets.preset import Preset

_FIT = (
    "python train_1dexample.py --data multiplestepfunc --nblocks 2 --densenet_depth 4 "
    "--densenet_growth 128 --act CReLU --coeff 0.99 --lip_coeff 0.99 --batch_size 5000 "
)
_TOY = (
    "python train_toy.py --data {density} --arch iresnet --nblocks 10 --coeff 0.9 "
    "--n-lipschitz-iters 5 --densenet_depth 3 --densenet_growth 16 --lip_coeff 0.98 "
    "--brute-force True --batch_size 500 --niters 50000 --lr 1e-3 --weight-decay 1e-5 "
    "--start_learnable_concat 25000 "
)

_CHAINS: dict[str, tuple[tuple[Layer, ...], str]] = {
    "a-residual": (("residual", "residual"), "--arch iresnet --actnorm False"),
    "b-residual-actnorm": (
        ("actnorm", "residual", "actnorm", "residual", "actnorm"),
        "--arch iresnet --actnorm True",
    ),
    "c-implicit": (
        ("actnorm", "residual", "inverse_residual", "actnorm"),
        "--arch impflow --actnorm True",
    ),
    "d-monotone": (
        ("actnorm", "monotone", "actnorm", "monotone", "actnorm"),
        "--arch iresnet --actnorm True --monotone_resolvent True",
    ),
}


def _fits() -> Iterator[Preset]:
    for name, (layers, flags) in _CHAINS.items():
        yield Preset(name, "fit1d", Fit1dConfig(layers=layers), _FIT + flags)


def _toys() -> Iterator[Preset]:
    for density in TOY_DENSITIES:
        command = _TOY.format(density=density)
        monotone = Toy2dConfig(density=density, block="monotone", activation="cpila")
        residual = Toy2dConfig(density=density, block="residual", activation="clipswish")
        flags = "--act CPila --monotone_resolvent True"
        yield Preset(f"{density}-monotone", "toy2d", monotone, command + flags)
        yield Preset(f"{density}-idensenet", "toy2d", residual, command + "--act CLipSwish")


MONOTONE: tuple[Preset, ...] = (*_fits(), *_toys())
"""Presets of the paper."""
