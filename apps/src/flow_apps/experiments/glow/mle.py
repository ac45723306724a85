"""Glows by maximum likelihood whose stability is followed, and the same in small.

Source: Behrmann et al. 2021 (Understanding and mitigating exploding inverses), released code:
`glow/`, `submitted-mle.sh`. Epochs are steps here, of the images that are trained on.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.stability import StabilityConfig
from flow_apps.experiments.glow.config import GlowConfig, LayersConfig
from flow_apps.registry import Preset

_EPOCH = 45_000 // 64

_RELEASED = LayersConfig(
    linear="none",
    num_blocks=3,
    block_size=32,
    mixing="reverse",
    coupling_net="normed",
    split_net="linear",
    split_bound=None,
    learn_top=True,
    mean=(0.5,),
    std=(1.0,),
)
_THIRD = math.log(3)
_COUPLINGS = {
    "additive": replace(_RELEASED, coupling="additive"),
    "affine": replace(_RELEASED, coupling="sigmoid", coupling_shift=2.0, coupling_eps=0.01),
}
_BOUNDED = {
    "naffine": replace(_RELEASED, coupling="half-range", coupling_eps=0.5),
    "gaffine": replace(_RELEASED, coupling="affine", coupling_bound=_THIRD, coupling_slope=_THIRD),
}

_FULL = GlowConfig(
    images=ImagesConfig(data="cifar10", augment="crop", validation_size=1000),
    flow=_RELEASED,
    stability=StabilityConfig(every=1000, images=64),
    training=TrainingConfig(
        iterations=500 * _EPOCH,
        batch_size=64,
        optimizer=OptimizerConfig(
            name="adamax",
            learning_rate=5e-4,
            weight_decay=5e-5,
            schedule=ScheduleConfig(warmup=5 * _EPOCH),
        ),
        initial_batches=10,
        evaluate_every=1000,
        figures_every=1000,
    ),
)

_SMALL = replace(
    _FULL,
    images=replace(_FULL.images, augment="flip", validation_size=200, test_size=500, test_draws=1),
    stability=StabilityConfig(every=100, images=32),
    training=TrainingConfig(
        iterations=500,
        batch_size=32,
        optimizer=OptimizerConfig(
            name="adamax", learning_rate=4e-3, weight_decay=5e-5, schedule=ScheduleConfig(warmup=50)
        ),
        evaluate_every=50,
        figures_every=250,
        threads=1,
    ),
)


def _in_small(flow: LayersConfig) -> LayersConfig:
    return replace(flow, block_size=4, coupling_width=32)


def _presets() -> Iterator[Preset[GlowConfig]]:
    command = "submitted-mle.sh, {} of glow/"
    for name, flow in _COUPLINGS.items():
        told = f"CIFAR-10, Glow 3x32, {name}"
        published = command.format(f"--flow_coupling {name}")
        yield Preset(f"cifar10-mle-{name}", replace(_FULL, flow=flow), told, published)
    for name, flow in (_COUPLINGS | _BOUNDED).items():
        small = replace(_SMALL, flow=_in_small(flow))
        told = f"CIFAR-10, Glow 3x4, {name}"
        yield Preset(f"cifar10-mle-small-{name}", small, told)
    labelled = replace(_in_small(_COUPLINGS["affine"]), classes=10)
    told = "CIFAR-10, Glow 3x4, affine, priors of classes"
    yield Preset("cifar10-mle-small-classes", replace(_SMALL, flow=labelled), told)


MLE_PRESETS = tuple(_presets())
"""The first two are published."""
