"""FlowGAN on CIFAR-10 as published, on MNIST within an hour, and on small digits at once.

An epoch of the published commands is (training images / 64) steps. Where the likelihood counts
beside the discriminator, it does so with one weight for its two terms. Small discriminators learn
faster than their generators, which else find ways around them before they tell anything.
"""

from collections.abc import Iterator
from dataclasses import replace

from flow_apps.config import OptimizerConfig, ScheduleConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.stability import StabilityConfig
from flow_apps.experiments.flowgan.config import (
    GENERATOR,
    DiscriminatorConfig,
    FlowGanConfig,
    WeightsConfig,
    adversarial_training,
)
from flow_apps.experiments.glow.config import LayersConfig
from flow_apps.registry import Preset

_BATCH = 64
_HELD_OUT = 5000
_EPOCH = (50_000 - _HELD_OUT) // _BATCH
_BOUND = 1.6094379124341003  # ln 5

_PUBLISHED = LayersConfig(
    linear="none",
    mixing="reverse",
    num_blocks=3,
    block_size=8,
    coupling="sigmoid",
    coupling_eps=0.01,
    coupling_width=128,
    coupling_net="normed",
    split_net="linear",
    split_bound=None,
    mean=(0.5,),
    std=(1.0,),
)
_COMMAND = (
    "python train.py --K 8 --hidden_channels 128 --flow_permutation reverse --affine_eps 0.01 "
    "--optim adam --lr 5e-5 --no_warm_up 1 --disc_lr 1e-4 --n_init_batches 0 --weight_gan 1 "
    "--weight_prior {weight} --weight_logdet {weight} --eval_every 1000"
)


def _cifar() -> Iterator[Preset[FlowGanConfig]]:
    images = ImagesConfig(
        data="cifar10", augment="cifar", held_out=_HELD_OUT, validation_size=1000, test_draws=1
    )
    training = adversarial_training(iterations=250 * _EPOCH, figures_every=_EPOCH)
    for kind, bound, flag in (("", None, ""), ("bounded-", _BOUND, " --actnorm_max_scale 5")):
        for weight in ("1e-3", "1e-4"):
            config = FlowGanConfig(
                images=images,
                flow=replace(_PUBLISHED, actnorm_bound=bound),
                weights=WeightsConfig(base_density=float(weight), log_det=float(weight)),
                stability=StabilityConfig(every=5000),
                training=training,
            )
            actnorms = "bounded ActNorms, " if bound else ""
            summary = f"CIFAR-10, {actnorms}likelihood {weight}"
            command = f"{_COMMAND.format(weight=weight)}{flag}"
            yield Preset(f"cifar10-flowgan-{kind}{weight}", config, summary, command)


def _likelihood(config: FlowGanConfig) -> FlowGanConfig:
    """The same network on the likelihood alone, with ActNorms and a learning rate for that."""
    alone = OptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig(warmup=100), turn=GENERATOR)
    training = replace(config.training, optimizer=alone, further_optimizers=(), gradient_clip=100.0)
    return replace(
        config,
        data_dependent_init=True,
        weights=WeightsConfig(adversarial=0.0, base_density=1.0, log_det=1.0),
        training=training,
    )


def _family(name: str, words: str, config: FlowGanConfig) -> Iterator[Preset[FlowGanConfig]]:
    """One network, trained against the discriminator, on both, and on the likelihood."""
    both = replace(config, weights=WeightsConfig(base_density=1e-3, log_det=1e-3))
    yield Preset(f"{name}-flowgan", config, f"{words}, a flow against a discriminator")
    yield Preset(f"{name}-flowgan-hybrid", both, f"{words}, likelihood times 1e-3 beside it")
    alone = _likelihood(config)
    yield Preset(f"{name}-flowgan-mle", alone, f"{words}, the same flow, likelihood alone")


_DIGITS = FlowGanConfig(
    # Small and quick, with scales that are bounded below: samples stay finite.
    flow=LayersConfig(
        linear="conv1x1",
        mixing="reverse",
        num_blocks=2,
        block_size=2,
        coupling_width=32,
        alpha=0.05,
    ),
    images=ImagesConfig(test_draws=1),
    discriminator=DiscriminatorConfig(width=8, gradient_penalty=1.0),
    stability=StabilityConfig(every=100, images=64, jacobians=4),
    samples=400,
    training=adversarial_training(
        learning_rate=1e-4,
        discriminator_rate=1e-3,
        iterations=300,
        evaluate_every=100,
        figures_every=100,
        threads=1,
    ),
)
_MNIST = FlowGanConfig(
    flow=replace(_PUBLISHED, num_blocks=2, block_size=4, coupling_width=64),
    images=ImagesConfig(data="mnist", validation_size=500, test_size=2000, test_draws=1),
    discriminator=DiscriminatorConfig(width=16),
    stability=StabilityConfig(every=500, jacobians=2),
    training=adversarial_training(
        learning_rate=5e-5,
        discriminator_rate=4e-4,
        iterations=6000,
        evaluate_every=250,
        figures_every=500,
    ),
)

PRESETS = (
    *_family("digits", "8x8 digits", _DIGITS),
    *_family("mnist", "MNIST", _MNIST),
    *_cifar(),
)
"""The first is for a quick look; those of CIFAR-10 are published."""
