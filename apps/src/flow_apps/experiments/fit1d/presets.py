"""The fits of Monotone Flows (Ahn et al. 2022), Fig. 4, and ImpFlow (Lu et al. 2021), Fig. 1."""

from collections.abc import Iterator

from flow_apps.config import OptimizerConfig, TrainingConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.experiments.fit1d.config import ATOL, Fit1dConfig, Layer
from flow_apps.registry import Preset

_COMMAND = (
    "python train_1dexample.py --data multiplestepfunc {model} --atol 1e-4 --rtol 1e-4 "
    "--densenet True --learnable_concat True --start_learnable_concat 0 --act CReLU "
    "--densenet_depth 4 --densenet_growth 128 --monotone_resolvent {monotone} --brute-force True "
    "--lr 0.01 --coeff 0.99 --lip_coeff 0.99 --batch_size 5000 --niters 15000 --weight-decay 0 "
    "--actnorm {actnorm}"
)
_STEPS: dict[str, tuple[tuple[Layer, ...], str]] = {
    "d-monotone": (("actnorm", "monotone", "actnorm", "monotone", "actnorm"), "monotone blocks"),
    "a-residual": (("residual", "residual"), "residual blocks"),
    "b-residual-actnorm": (
        ("actnorm", "residual", "actnorm", "residual", "actnorm"),
        "residual blocks with ActNorm",
    ),
    "c-implicit": (("actnorm", "residual", "inverse_residual", "actnorm"), "an implicit block"),
}
_IMPFLOW: dict[str, tuple[Layer, ...]] = {
    "impflow-implicit-1": ("implicit",),
    "impflow-residual-1": ("residual",),
    "impflow-residual-2": ("residual", "residual"),
    "impflow-residual-3": ("residual", "residual", "residual"),
}


def _command(layers: tuple[Layer, ...]) -> str:
    """What the authors ran, without the folder that they saved to."""
    implicit, monotone = "inverse_residual" in layers, "monotone" in layers
    model = "--nblocks 1 --arch impflow" if implicit else "--nblocks 2"
    if not (implicit or monotone):
        model += " --arch iresnet"
    return _COMMAND.format(model=model, monotone=monotone, actnorm="actnorm" in layers)


def _steps() -> Iterator[Preset[Fit1dConfig]]:
    for name, (layers, summary) in _STEPS.items():
        yield Preset(name, Fit1dConfig(layers=layers), f"steps, {summary}", _command(layers))


def _impflow() -> Iterator[Preset[Fit1dConfig]]:
    for name, layers in _IMPFLOW.items():
        config = Fit1dConfig(
            target="impflow1d",
            layers=layers,
            net="feedforward",
            growth=128,
            depth=1,
            activation="relu",
            contraction=ContractionConfig(coeff=0.99, atol=ATOL),
            training=TrainingConfig(
                iterations=1000, batch_size=1000, optimizer=OptimizerConfig(learning_rate=5e-3)
            ),
        )
        kind = name.removeprefix("impflow-").replace("-", " blocks: ")
        yield Preset(name, config, f"ImpFlow, Fig. 1, {kind}")


PRESETS = (*_steps(), *_impflow())
"""The fits of both papers."""
