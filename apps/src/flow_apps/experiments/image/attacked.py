"""Models whose inverses are attacked: those of the paper, and twins of one size for a CPU.

Source: Behrmann et al. 2021 (Understanding and mitigating exploding inverses), §5.1 and released
code. Pictures are CelebA's own of 64x64 in 5 bits, of which CelebA-HQ, as published, is a part.
The bounded twins are not of the paper: blocks without ActNorms have a condition number of at most
100 with the logit, on all images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.optimizer import OptimizerName
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.registry import Preset

_BATCH = 64
_PICTURES = 162_770
_EPOCHS = 1000
_WARMUP = 1000
_COMMAND = (
    "python train_img_adapted.py --data celeba64_5bit --imagesize 64 --nbits 5 --actnorm True "
    "--n-exact-terms 8 --fc-end True --factor-out False --squeeze-first True "
    "--nblocks 16-16-16-16 {more}"
)
_CELEBA = ImageConfig(
    images=ImagesConfig(
        data="celeba", side=64, n_bits=5, augment="flip", validation_size=1000, test_draws=3
    ),
    scales=(16, 16, 16, 16),
    squeeze_first=True,
    dense_blocks=4,
)
_RESIDUAL = replace(_CELEBA, block="residual", net="feedforward", activation="lipswish")
_AFFINE = replace(
    _CELEBA, block="coupling", coupling_order="checkerboards-first", coupling_activation="elu"
)
_OF_RESIDUAL, _OF_AFFINE = (
    "--block resblock --act swish",
    "--block coupling --act elu --update-freq 5 --optimizer adamax",
)


def _recipe(passes: int, optimizer: OptimizerName) -> TrainingConfig:
    """Epochs of backward passes of 64 images each, so many of them a step."""
    steps = _PICTURES // (_BATCH * passes)
    return TrainingConfig(
        iterations=_EPOCHS * steps,
        batch_size=_BATCH * passes,
        accumulate=passes,
        optimizer=OptimizerConfig(
            name=optimizer,
            learning_rate=1e-3,
            options={"betas": (0.9, 0.99)},
            schedule=ScheduleConfig(warmup=_WARMUP // passes),
        ),
        gradient_clip=1.0,
        ema_decay=0.999,
        evaluate_every=steps,
        figures_every=steps,
    )


def _published() -> Iterator[Preset[ImageConfig]]:
    residual = replace(
        _RESIDUAL,
        estimator=EstimatorConfig(train="krylov", recompute=True),
        training=_recipe(1, "adam"),
    )
    yield Preset(
        "celeba64-attack-residual",
        residual,
        "CelebA 64, the Residual Flow that is attacked",
        _COMMAND.format(more=_OF_RESIDUAL),
    )
    affine = replace(_AFFINE, training=_recipe(5, "adamax"))
    command = _COMMAND.format(more=_OF_AFFINE)
    yield Preset("celeba64-attack-affine", affine, "CelebA 64, affine couplings, attacked", command)
    modified = replace(affine, coupling_scale="upper-half-of-channels")
    summary = "CelebA 64, to be attacked: modified affine"
    yield Preset("celeba64-attack-modified-affine", modified, summary)


@dataclass(frozen=True, kw_only=True)
class _Twins:
    """Models of one size of a set of images.

    Attributes:
        images: The set.
        words: How it is called.
        residual: Channels inside of contractions.
        couplings: Channels inside of couplings.
    """

    images: ImagesConfig
    words: str
    residual: int
    couplings: int

    def models(self) -> dict[str, ImageConfig]:
        """By kind."""
        base = replace(_CELEBA, images=self.images, scales=(4, 4), dense_blocks=0, training=_SHORT)
        residual = replace(
            base,
            block="residual",
            net="feedforward",
            activation="lipswish",
            width=self.residual,
            contraction=ContractionConfig(coeff=0.9),
        )
        affine = replace(
            base,
            block="coupling",
            coupling_order="checkerboards-first",
            coupling_activation="elu",
            width=self.couplings,
        )
        return {
            "residual": residual,
            "affine": affine,
            "modified-affine": replace(affine, coupling_scale="upper-half-of-channels"),
            "monotone": replace(residual, block="monotone"),
            # ((1 + .56³)/(1 − .56³))⁸ = 17, and 5.3 of the logit.
            "bounded": replace(residual, actnorm=False, contraction=ContractionConfig(coeff=0.56)),
        }


_SHORT = TrainingConfig(
    iterations=400,
    batch_size=32,
    optimizer=OptimizerConfig(
        learning_rate=3e-3, options={"betas": (0.9, 0.99)}, schedule=ScheduleConfig(warmup=40)
    ),
    gradient_clip=1.0,
    ema_decay=0.98,
    evaluate_every=100,
    figures_every=400,
    threads=1,
)
_MNIST = _Twins(
    images=ImagesConfig(data="mnist", validation_size=100, test_size=500, test_draws=1),
    words="MNIST",
    residual=64,
    couplings=68,
)
_CIFAR = _Twins(
    images=ImagesConfig(
        data="cifar10",
        augment="flip",
        held_out=200,
        validation_size=100,
        test_size=500,
        test_draws=1,
    ),
    words="CIFAR-10",
    residual=64,
    couplings=69,
)


def _small() -> Iterator[Preset[ImageConfig]]:
    for name, twins in (("mnist", _MNIST), ("cifar10", _CIFAR)):
        for kind, config in twins.models().items():
            summary = f"{twins.words}, to be attacked: {kind.replace('-', ' ')}"
            yield Preset(f"{name}-attack-{kind}", config, summary)


ATTACKED = (*_published(), *_small())
"""Those of the paper, then small ones."""
