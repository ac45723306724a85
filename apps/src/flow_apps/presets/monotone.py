"""Monotone Flows (Ahn et al. 2022): the 1-D fits of Fig. 4 and the 2-D densities of Table 1."""

from collections.abc import Iterator

from flow_data.toy import TOY_DENSITIES

from flow_apps.experiments.fit1d import Fit1dConfig, Layer
from flow_apps.experiments.toy2d import Toy2dConfig
from flow_apps.presets.preset import Preset

_FIT = (
    "python train_1dexample.py --data multiplestepfunc {model} --atol 1e-4 --rtol 1e-4 "
    "--densenet True --learnable_concat True --start_learnable_concat 0 --act CReLU "
    "--densenet_depth 4 --densenet_growth 128 --monotone_resolvent {monotone} --brute-force True "
    "--lr 0.01 --coeff 0.99 --lip_coeff 0.99 --batch_size 5000 --niters 15000 --weight-decay 0 "
    "--actnorm {actnorm}"
)
_TOY = (
    "python train_toy.py --data {density} --nblocks 10 --densenet True --learnable_concat True "
    "--start_learnable_concat 25000 --act {activation} --densenet_depth 3 --densenet_growth 16 "
    "--monotone_resolvent {monotone} --brute-force True"
)

_CHAINS: dict[str, tuple[Layer, ...]] = {
    "a-residual": ("residual", "residual"),
    "b-residual-actnorm": ("actnorm", "residual", "actnorm", "residual", "actnorm"),
    "c-implicit": ("actnorm", "residual", "inverse_residual", "actnorm"),
    "d-monotone": ("actnorm", "monotone", "actnorm", "monotone", "actnorm"),
}


def _fit_command(layers: tuple[Layer, ...]) -> str:
    """What the authors ran, without the folder that they saved to."""
    implicit, monotone = "inverse_residual" in layers, "monotone" in layers
    model = "--nblocks 1 --arch impflow" if implicit else "--nblocks 2"
    if not (implicit or monotone):
        model += " --arch iresnet"
    return _FIT.format(model=model, monotone=monotone, actnorm="actnorm" in layers)


def _fits() -> Iterator[Preset]:
    for name, layers in _CHAINS.items():
        yield Preset(name, "fit1d", Fit1dConfig(layers=layers), _fit_command(layers))


def _toys() -> Iterator[Preset]:
    for density in TOY_DENSITIES:
        command = _TOY.format(density=density, activation="CPila", monotone=True)
        config = Toy2dConfig(density=density, block="monotone", activation="cpila")
        yield Preset(f"{density}-monotone", "toy2d", config, command)
        command = _TOY.format(density=density, activation="CLipSwish", monotone=False)
        config = Toy2dConfig(density=density, block="residual", activation="clipswish")
        yield Preset(f"{density}-idensenet", "toy2d", config, command)


MONOTONE: tuple[Preset, ...] = (*_fits(), *_toys())
"""Presets of the paper."""
