"""Implicit Normalizing Flows (Lu et al. 2021): the 1-D fit of Fig. 1."""

from collections.abc import Iterator

from flow_apps.experiments.contraction import ContractionConfig
from flow_apps.experiments.fit1d import ATOL, Fit1dConfig, Layer
from flow_apps.presets.preset import Preset
from flow_apps.training import TrainingConfig

_CHAINS: dict[str, tuple[Layer, ...]] = {
    "impflow-implicit-1": ("implicit",),
    "impflow-residual-1": ("residual",),
    "impflow-residual-2": ("residual", "residual"),
    "impflow-residual-3": ("residual", "residual", "residual"),
}


def _fits() -> Iterator[Preset]:
    for name, layers in _CHAINS.items():
        config = Fit1dConfig(
            target="impflow1d",
            layers=layers,
            net="feedforward",
            growth=128,
            depth=1,
            activation="relu",
            contraction=ContractionConfig(coeff=0.99, atol=ATOL),
            training=TrainingConfig(iterations=1000, batch_size=1000, learning_rate=5e-3),
        )
        yield Preset(name, "fit1d", config, "no code published; ours after Fig. 1 of the paper")


IMPFLOW: tuple[Preset, ...] = tuple(_fits())
"""Presets of the paper."""
