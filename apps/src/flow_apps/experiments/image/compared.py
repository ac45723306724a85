"""Models of about 200,000 parameters, to be compared at equal time on one machine.

They are those of the papers on a small scale, `benchmarks/comparison.py` runs them: what differs
between them is what the papers compare, everything else is alike.
"""

from collections.abc import Iterator
from dataclasses import replace

from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.registry import Preset

_TRAINING = TrainingConfig(
    iterations=1000,
    batch_size=32,
    optimizer=OptimizerConfig(
        learning_rate=5e-3,
        options={"betas": (0.9, 0.99)},
        schedule=ScheduleConfig(warmup=30, anneal="cosine"),
    ),
    gradient_clip=1.0,
    ema_decay=0.98,
    evaluate_every=50,
    figures_every=250,
)
_MODEL = ImageConfig(
    scales=(2, 2, 2),
    dense_blocks=0,
    contraction=ContractionConfig(coeff=0.98, learn_concat_from=1),
    training=_TRAINING,
)
_MNIST = replace(
    _MODEL,
    images=ImagesConfig(data="mnist", validation_size=200, test_size=1000, test_draws=1),
    growth=78,
    alpha=1e-6,
)
_CIFAR = replace(
    _MODEL,
    images=ImagesConfig(
        data="cifar10",
        augment="flip",
        held_out=200,
        validation_size=200,
        test_size=500,
        test_draws=1,
    ),
    growth=64,
)


def _on_mnist() -> Iterator[Preset[ImageConfig]]:
    yield Preset("mnist-200k-monotone", _MNIST, "MNIST, a Monotone Flow of 200k")
    dense = replace(_MNIST, block="residual", activation="clipswish")
    yield Preset("mnist-200k-idensenet", dense, "MNIST, an i-DenseNet of 200k")
    plain = replace(dense, net="feedforward", activation="lipswish", width=130)
    yield Preset("mnist-200k-residualflow", plain, "MNIST, a Residual Flow of 200k")


def _ablation() -> Iterator[Preset[ImageConfig]]:
    smooth = replace(_CIFAR, activation="clipswish")
    dense = replace(smooth, block="residual")
    yield Preset("cifar10-200k-idensenet", dense, "ablation row 1 in small")
    residual = replace(_CIFAR, block="residual")
    yield Preset("cifar10-200k-idensenet-cpila", residual, "ablation row 2 in small")
    yield Preset("cifar10-200k-monotone-clipswish", smooth, "ablation row 3 in small")
    yield Preset("cifar10-200k-monotone", _CIFAR, "ablation row 4 in small")


COMPARED = (*_on_mnist(), *_ablation())
"""Models of one size."""
