"""The classifiers of Behrmann et al. 2021 as published, and small ones that a CPU can train.

The released code divides directions of finite differences by the norm over the batch, sums squares
over the batch and divides by ε once: with unit vectors of samples, and squares that are divided by
ε² and averaged, c there is c·ε·D here, as strong in the mean. `directions=per-feature-over-batch`
with a coefficient of c·ε·B is what it computes.
"""

from collections.abc import Iterator
from dataclasses import replace

from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.config.stability import StabilityConfig
from flow_apps.experiments.inn_classify.config import (
    BlockOfInn,
    InnClassifyConfig,
    PermutationOfInn,
)
from flow_apps.registry import Preset

_BATCH = 128
_HELD_OUT = 5000
_EPOCH = (50_000 - _HELD_OUT) // _BATCH
_EPOCHS = 200
_VALUES = 3 * 32 * 32
_STEP = 0.1
_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
_CIFAR = ImagesConfig(data="cifar10", augment="crop", held_out=_HELD_OUT, validation_size=_HELD_OUT)
_RECIPE = TrainingConfig(
    iterations=_EPOCHS * _EPOCH,
    batch_size=_BATCH,
    optimizer=OptimizerConfig(
        learning_rate=1e-4,
        schedule=ScheduleConfig(milestones=((60 / 200, 0.1), (120 / 200, 0.01), (160 / 200, 1e-3))),
    ),
    log_every=400,
    evaluate_every=1000,
    figures_every=2000,
)
_BLOCKS: tuple[BlockOfInn, ...] = ("affine", "additive")
_PUBLISHED: tuple[tuple[BlockOfInn, PermutationOfInn], ...] = (
    ("affine", "conv"),
    ("affine", "shuffle"),
    ("additive", "conv"),
)
_DIFFERENCE = 1e-4
_REGULARIZERS = {
    "": (RegularizersConfig(), "free", ""),
    "-nf": (RegularizersConfig(density=1e-5), "density", " --nf_coeff=1e-5"),
    "-fd": (
        RegularizersConfig(
            fd_forward=_DIFFERENCE * _STEP * _VALUES,
            fd_inverse=_DIFFERENCE * _STEP * _VALUES,
            every=10,
        ),
        "differences",
        f" --fd_coeff={_DIFFERENCE:.0e} --fd_inv_coeff={_DIFFERENCE:.0e} --regularize_every=10 "
        "--mem_saving",
    ),
}
_COMMAND = (
    "python train_inn_classifier.py --coupling={block} --permutation={permutation} --zero_init "
    "--use_prior --use_actnorm --no_inverse_svd{more}"
)


def _published() -> Iterator[Preset[InnClassifyConfig]]:
    """Affine ones have commands; Table 2 has additive ones too."""
    for block, permutation in _PUBLISHED:
        for ending, (regularizers, words, more) in _REGULARIZERS.items():
            config = InnClassifyConfig(
                images=_CIFAR,
                block=block,
                permutation=permutation,
                mean=_MEAN,
                std=_STD,
                regularizers=regularizers,
                training=_RECIPE,
            )
            command = _COMMAND.format(block=block, permutation=permutation, more=more)
            yield Preset(
                f"cifar10-{block}-{permutation}{ending}",
                config,
                f"CIFAR-10, {block}, {permutation}, {words}",
                command if block == "affine" else "",
            )
    bounded = InnClassifyConfig(
        images=_CIFAR, block="residual", condition=1000.0, mean=_MEAN, std=_STD, training=_RECIPE
    )
    yield Preset("cifar10-bounded", bounded, "CIFAR-10, condition number at most 1000")


_SMALL = InnClassifyConfig(
    images=ImagesConfig(
        data="cifar10", augment="crop", held_out=1000, validation_size=1000, test_size=2000
    ),
    depth=4,
    width=32,
    mean=_MEAN,
    std=_STD,
    stability=StabilityConfig(every=1000),
    training=TrainingConfig(
        iterations=6000,
        batch_size=64,
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig(warmup=100)),
        evaluate_every=500,
        figures_every=1000,
        threads=1,
    ),
)
_SMALL_REGULARIZERS = {
    "": RegularizersConfig(),
    "-nf": RegularizersConfig(density=1e-4),
    "-fd": RegularizersConfig(fd_forward=0.01, fd_inverse=0.01, every=10),
}


def _small() -> Iterator[Preset[InnClassifyConfig]]:
    """The same in small."""
    for block in _BLOCKS:
        for ending, (_, words, _) in _REGULARIZERS.items():
            config = replace(_SMALL, block=block, regularizers=_SMALL_REGULARIZERS[ending])
            yield Preset(
                f"cifar10-small-{block}{ending}", config, f"CIFAR-10, small, {block}, {words}"
            )
    bounded = replace(_SMALL, block="residual", condition=100.0)
    yield Preset("cifar10-small-bounded", bounded, "CIFAR-10, small, condition at most 100")


_DIGITS = InnClassifyConfig(
    images=ImagesConfig(held_out=300),
    levels=2,
    depth=4,
    width=32,
    stability=StabilityConfig(every=100, images=64, jacobians=2),
    training=TrainingConfig(
        iterations=300,
        batch_size=64,
        optimizer=OptimizerConfig(learning_rate=2e-3),
        evaluate_every=50,
        figures_every=100,
        threads=1,
    ),
)

PRESETS = (
    Preset("digits-inn", _DIGITS, "8x8 digits, affine couplings"),
    Preset(
        "digits-inn-bounded",
        replace(_DIGITS, block="residual"),
        "8x8 digits, condition number at most 100",
    ),
    *_published(),
    *_small(),
)
"""The first two are for a quick look, those with a command are published."""
