"""Inverse-Flow, FInC and Self Normalizing Flows: the experiments of their papers and codes.

Epochs of the published recipes are steps here: a published epoch is its number of training images
divided by the batch size. `small-…` presets are for one machine.
"""

from collections.abc import Iterator
from dataclasses import replace

from flow_core.models import FlowConfig

from flow_apps.experiments.glow import GlowConfig, SelfNormConfig
from flow_apps.experiments.image_sets import ImagesConfig
from flow_apps.presets.preset import Preset
from flow_apps.training import TrainingConfig

_MNIST = ImagesConfig(data="mnist", validation_size=10_000, test_draws=1)
_MNIST_EPOCH = 500


def _training(
    iterations: int,
    batch_size: int,
    learning_rate: float,
    *,
    warmup: int = 0,
    decay: float = 1.0,
    clip: float | None = None,
    weight_decay: float = 0.0,
    evaluate_every: int = _MNIST_EPOCH,
) -> TrainingConfig:
    return TrainingConfig(
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup=warmup,
        decay=decay,
        gradient_clip=clip,
        weight_decay=weight_decay,
        evaluate_every=evaluate_every,
        figures_every=10 * evaluate_every,
    )


_SMALL: dict[str, FlowConfig] = {
    "inverse-conv": FlowConfig(linear="inverse-conv", mixing="conv1x1", tap_bound=0.9),
    "fincflow": FlowConfig(linear="fincflow", mixing="conv1x1"),
    "conv1x1": FlowConfig(linear="conv1x1"),
    "self-normalizing": FlowConfig(linear="self-normalizing", kernel_size=1),
}


def _small() -> Iterator[Preset]:
    """Four flows of equal depth and width, to be compared on one machine."""
    note = "2 blocks of 4 steps, 1,000 iterations: a comparison of linear layers on one machine"
    images = replace(_MNIST, validation_size=1000)
    training = replace(_training(1000, 100, 1e-3, warmup=100, clip=100.0), evaluate_every=100)
    for name, flow in _SMALL.items():
        config = GlowConfig(
            images=images,
            flow=replace(flow, coupling_width=64),
            self_norm=SelfNormConfig(reconstruction_weight=100.0),
            timing=True,
            training=training,
        )
        yield Preset(f"small-{name}-mnist", "glow", config, note)


GLOW: tuple[Preset, ...] = (*_small(),)
"""Presets of the papers."""
