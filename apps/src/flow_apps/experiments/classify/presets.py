"""Classifiers of CIFAR as published, and one of the digits for a first look.

Of Implicit Normalizing Flows there are those of Table 1 (Lu et al. 2021) at a coefficient of .99;
the others are had by `--set coeff=...`. Their loss is a sum over the batch; here it is the mean, at
the same learning rate: Adam does not see the difference, and gradients are not clipped.
"""

from collections.abc import Iterator
from dataclasses import replace

from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.classification import HeadsConfig
from flow_apps.config.contraction import BlockName, ContractionConfig
from flow_apps.config.images import ImageData, ImagesConfig
from flow_apps.experiments.classify.config import BlockOfClassifier, ClassifyConfig
from flow_apps.registry import Preset

_BATCH = 128
_HELD_OUT = 5000
_EPOCH = (50_000 - _HELD_OUT) // _BATCH
_EPOCHS = 200
_CONCAT_FROM_EPOCH = 25

_CIFAR = ImagesConfig(data="cifar10", augment="crop", held_out=_HELD_OUT, validation_size=_HELD_OUT)
_RECIPE = TrainingConfig(
    iterations=_EPOCHS * _EPOCH,
    batch_size=_BATCH,
    optimizer=OptimizerConfig(
        learning_rate=1e-3, options={"betas": (0.9, 0.99)}, schedule=ScheduleConfig(warmup=1000)
    ),
    ema_decay=0.999,
    evaluate_every=_EPOCH,
    figures_every=_EPOCH,
)
_SIZES = {"tiny": 1, "small": 4, "large": 16}
_KINDS: dict[str, tuple[BlockName, str, str]] = {
    "monotone": ("monotone", "CPila", "Monotone Flow"),
    "idensenet": ("residual", "CLipSwish", "i-DenseNet"),
}
_COMMAND = (
    "python train_img.py --task classification --data cifar10 --nblocks {blocks} "
    "--densenet_growth 80 --densenet_depth 3 --act {activation} --monotone_resolvent {monotone} "
    "--fc-end False --mem-eff False --batchsize 128 --lr 0.001 --nepochs 200 "
    "--start_learnable_concat 25 --n-exact-terms 10 --clip_grad_norm False"
)


def _published() -> Iterator[Preset[ClassifyConfig]]:
    for kind, (block, activation, words) in _KINDS.items():
        for size, blocks in _SIZES.items():
            config = ClassifyConfig(
                images=_CIFAR,
                block=block,
                scales=(blocks,) * 3,
                growth=80,
                depth=3,
                activation=activation.lower(),
                heads=HeadsConfig(),
                mean=(0.4914, 0.4822, 0.4465),
                std=(0.2023, 0.1994, 0.2010),
                contraction=ContractionConfig(
                    coeff=0.98, learn_concat_from=_CONCAT_FROM_EPOCH * _EPOCH + 1
                ),
                training=_RECIPE,
            )
            command = _COMMAND.format(
                blocks="-".join([str(blocks)] * 3),
                activation=activation,
                monotone=block == "monotone",
            )
            yield Preset(f"{size}-{kind}", config, f"CIFAR-10, a {size} {words}", command)


_RESNET_RECIPE = replace(
    _RECIPE,
    iterations=150 * _EPOCH,
    optimizer=OptimizerConfig(
        learning_rate=1e-3,
        options={"betas": (0.9, 0.99)},
        schedule=ScheduleConfig(milestones=((75 / 150, 0.1), (90 / 150, 0.01), (100 / 150, 0.001))),
    ),
)
_RESNETS: dict[str, tuple[BlockOfClassifier, str]] = {
    "impflow": ("implicit", "implicit blocks"),
    "resflow": ("residual", "residual blocks"),
    "vanilla": ("plain", "unbounded blocks"),
}
_SETS: tuple[ImageData, ...] = ("cifar10", "cifar100")
_RESNET_COMMAND = (
    "python train_classification.py --data {data} --coeff 0.99 --epochs 150 --batch-size 128 "
    "--lr 0.001 --weight-decay 0"
)


def _resnets() -> Iterator[Preset[ClassifyConfig]]:
    for data in _SETS:
        for kind, (block, words) in _RESNETS.items():
            config = ClassifyConfig(
                images=replace(_CIFAR, data=data),
                network="resnet",
                block=block,
                noise=False,
                contraction=ContractionConfig(coeff=0.99),
                training=_RESNET_RECIPE,
            )
            # The released program runs implicit blocks only.
            command = _RESNET_COMMAND.format(data=data) if kind == "impflow" else ""
            summary = f"{data.upper()}, a ResNet-18 with {words}"
            yield Preset(f"{data}-resnet-{kind}", config, summary, command)


_MNIST = ImagesConfig(data="mnist", held_out=_HELD_OUT, validation_size=_HELD_OUT)
_JUDGE_BATCH = 64
_JUDGE_EPOCHS = 14


def _judge(images: ImagesConfig, steps: int, epochs: int) -> ClassifyConfig:
    """The learning rate falls to .7 of itself after every one of so many epochs."""
    falls = tuple((k / epochs, 0.7**k) for k in range(1, epochs))
    return ClassifyConfig(
        images=images,
        network="cnn",
        block="plain",
        mean=(0.1307,),
        std=(0.3081,),
        noise=False,
        training=TrainingConfig(
            iterations=epochs * steps,
            batch_size=_JUDGE_BATCH,
            optimizer=OptimizerConfig(
                name="adadelta", learning_rate=1.0, schedule=ScheduleConfig(milestones=falls)
            ),
            evaluate_every=steps,
            figures_every=epochs * steps,
        ),
    )


def _judges() -> Iterator[Preset[ClassifyConfig]]:
    """What tells whether samples look like digits; on MNIST as published."""
    steps = (60_000 - _HELD_OUT) // _JUDGE_BATCH
    mnist = _judge(_MNIST, steps, _JUDGE_EPOCHS)
    summary = "MNIST, the network that judges samples"
    yield Preset("mnist-judge", mnist, summary, "python classify_mnist.py")
    digits = replace(_judge(ImagesConfig(), 20, 20), mean=(0.317,), std=(0.354,))
    yield Preset("digits-judge", digits, "8x8 digits, a network that judges samples")


PRESETS = (
    Preset("digits-classifier", ClassifyConfig(), "8x8 digits, a Monotone Flow"),
    *_published(),
    *_resnets(),
    *_judges(),
)
"""The first is for a quick look, the others are published."""
