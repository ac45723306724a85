"""Inverse-Flow, FInC and Self Normalizing Flows: the experiments of their papers and codes.

Epochs of the published recipes are steps here. Where the codes only say how long they may run at
most (10,000 epochs), presets run 100, and 20 on ImageNet unless its learning rate falls every 25.
What differs from the scripts: clipping of parameter values and learning rates that fall to a tenth
every epoch or two are left out, for they stop the training of Inverse-Flow; its taps are bounded;
an activation follows the last step too; if-glow-mnist runs 300 of its 2,000 epochs, after which a
learning rate that falls to 0.9617 of itself every epoch has gone from 1e-5 to 1e-10.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.images import Augmentation, ImagesConfig
from flow_apps.experiments.glow.config import GlowConfig, LayersConfig, LinearName, SelfNormConfig
from flow_apps.experiments.glow.mle import MLE_PRESETS
from flow_apps.registry import Preset


@dataclass(frozen=True)
class _Data:
    """Images, and how many of them there are to train on."""

    images: ImagesConfig
    count: int


_MNIST = _Data(ImagesConfig(data="mnist", held_out=10_000, validation_size=10_000), 50_000)
_CIFAR = _Data(ImagesConfig(data="cifar10", held_out=10_000, validation_size=10_000), 40_000)
_IMAGENET32 = _Data(ImagesConfig(data="imagenet32", held_out=20_000), 1_261_149)
_IMAGENET64 = _Data(ImagesConfig(data="imagenet64", held_out=20_000), 1_261_149)
_CELEBA = {side: _Data(ImagesConfig(data="celeba", side=side), 162_770) for side in (32, 64, 128)}


def _augmented(data: _Data, kind: Augmentation) -> _Data:
    return replace(data, images=replace(data.images, augment=kind))


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """How one of the published scripts trains, in epochs."""

    learning_rate: float = 1e-3
    batch_size: int = 100
    epochs: int = 100
    warmup: float = 0.0
    gamma: float = 1.0
    milestones: tuple[tuple[float, float], ...] = ()
    clip: float | None = None
    weight_decay: float = 0.0
    ema_decay: float | None = None

    def training(self, count: int) -> TrainingConfig:
        """The recipe for that many training images."""
        steps = count // self.batch_size
        return TrainingConfig(
            iterations=self.epochs * steps,
            batch_size=self.batch_size,
            optimizer=OptimizerConfig(
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                schedule=ScheduleConfig(
                    warmup=round(self.warmup * steps),
                    decay=self.gamma ** (1 / steps),
                    milestones=self.milestones,
                ),
            ),
            gradient_clip=self.clip,
            ema_decay=self.ema_decay,
            evaluate_every=steps,
            figures_every=steps,
        )


_STEPS_OF_25 = ((0.25, 0.1), (0.5, 0.01), (0.75, 0.001))


def _preset(
    name: str,
    data: _Data,
    flow: LayersConfig,
    recipe: _Recipe,
    published: str,
    *,
    self_norm: SelfNormConfig | None = None,
) -> Preset[GlowConfig]:
    config = GlowConfig(
        images=data.images,
        flow=flow,
        self_norm=SelfNormConfig() if self_norm is None else self_norm,
        timing=True,
        training=recipe.training(data.count),
    )
    return Preset(name, config, _summary(config), published)


def _summary(config: GlowConfig) -> str:
    flow, images = config.flow, config.images
    size = f" {images.side}" if images.data == "celeba" else ""
    return (
        f"{images.data}{size}, {flow.architecture} {flow.num_blocks}x{flow.block_size}, "
        f"{flow.linear}"
    )


_TRAINED_AS: dict[str, LinearName] = {"selfnorm": "self-normalizing", "exact": "exact"}
_BASELINES: tuple[LinearName, ...] = ("emerging", "exponential")


def _fully_connected_and_cnn() -> Iterator[Preset[GlowConfig]]:
    connected = LayersConfig(
        architecture="fully-connected", linear="exact", block_size=1, activation="slr"
    )
    cnn = LayersConfig(
        architecture="cnn",
        linear="exact",
        num_blocks=3,
        block_size=3,
        activation="spline",
        individual=True,
    )
    for flow, rate, kind in ((connected, 1e-4, "fc"), (cnn, 1e-3, "cnn")):
        recipe = _Recipe(learning_rate=rate, warmup=10.0)
        for prefix, linear in _TRAINED_AS.items():
            script = f"experiments/{prefix}_{kind}_mnist.py"
            made = replace(flow, linear=linear)
            yield _preset(f"{prefix}-{kind}-mnist", _MNIST, made, recipe, script)
    for linear in _BASELINES:
        size = 2 if linear == "emerging" else 3
        made = replace(cnn, linear=linear, kernel_size=size)
        script = f"experiments/{linear}_cnn_mnist.py"
        recipe = _Recipe(warmup=10.0)
        yield _preset(f"{linear}-cnn-mnist", _MNIST, made, recipe, script)


def _self_normalizing_glows() -> Iterator[Preset[GlowConfig]]:
    glow = LayersConfig(linear="self-normalizing", kernel_size=1, block_size=16)
    plain = LayersConfig(linear="conv1x1", block_size=16)
    weight = SelfNormConfig(reconstruction_weight=100.0)
    data, recipe = _augmented(_MNIST, "mnist"), _Recipe(warmup=10.0)
    script = "experiments/{}_glow_{}.py"
    published = script.format("selfnorm", "mnist")
    yield _preset("selfnorm-glow-mnist", data, glow, recipe, published, self_norm=weight)
    yield _preset("conv1x1-glow-mnist", _MNIST, plain, recipe, script.format("conv1x1", "mnist"))
    geco = LayersConfig(linear="self-normalizing", kernel_size=5, coupling_width=16)
    held = SelfNormConfig(geco_rate=1e-3, geco_tolerance=0.1)
    published = script.format("geco_selfnorm", "mnist")
    long = _Recipe(epochs=1000, warmup=10.0)
    yield _preset("geco-selfnorm-glow-mnist", _MNIST, geco, long, published, self_norm=held)
    heavy = SelfNormConfig(reconstruction_weight=1000.0)
    for data, name, steps, recipe in (
        (_augmented(_CIFAR, "cifar"), "cifar", 32, _Recipe(clip=1e4, warmup=10.0)),
        (_IMAGENET32, "imagenet", 48, _Recipe(clip=1e4, batch_size=64, epochs=20)),
    ):
        deep, exact = (replace(f, num_blocks=3, block_size=steps) for f in (glow, plain))
        published = script.format("selfnorm", name)
        yield _preset(f"selfnorm-glow-{name}", data, deep, recipe, published, self_norm=heavy)
        published = script.format("conv1x1", name)
        unclipped = replace(recipe, clip=None)
        yield _preset(f"conv1x1-glow-{name}", data, exact, unclipped, published)


_INVERSE = LayersConfig(linear="inverse-conv", actnorm=False, tap_bound=0.9)


def _inverse_flows() -> Iterator[Preset[GlowConfig]]:
    spline = replace(_INVERSE, kernel_size=2, block_size=16, activation="spline", individual=True)
    slow = _Recipe(learning_rate=1e-5, warmup=1.0, gamma=0.9617, epochs=300, clip=1.0)
    mnist = replace(spline, actnorm=True, tail_bound=20.0, alpha=1e-7)
    yield _preset("if-glow-mnist", _MNIST, mnist, slow, "inf/experiments/if_glow_mnist.py")
    cnn = replace(spline, architecture="cnn", n_bins=10, tail_bound=30.0)
    recipe = _Recipe(learning_rate=1e-5, warmup=2.0, gamma=0.9997)
    yield _preset("if-cnn-mnist", _MNIST, cnn, recipe, "inf/experiments/if_cnn_mnist.py")
    cifar = replace(_INVERSE, num_blocks=3, block_size=28, activation="slr", mixing="conv1x1")
    recipe = _Recipe(learning_rate=1e-4, batch_size=128, warmup=1.0, clip=5.06, weight_decay=1e-7)
    data = _augmented(_CIFAR, "cifar")
    yield _preset("if-glow-cifar", data, cifar, recipe, "inf/if_glow_cifar.py")
    # The script's config says 7 bins to 10, and hard-codes these; its kernels have 3x3 taps.
    shared = replace(spline, kernel_size=3, n_bins=10, tail_bound=20.0, individual=False)
    small = replace(shared, coupling_width=128)
    recipe = _Recipe(learning_rate=1e-4, batch_size=140, warmup=2.0, clip=1.0)
    published = "inf/experiments/if_glow_cifar.py"
    yield _preset("if-glow-cifar-small", data, small, recipe, published)
    wider = replace(shared, coupling_width=256)
    deep = replace(wider, num_blocks=3, block_size=48)
    recipe = _Recipe(clip=0.06, warmup=2.0, weight_decay=1e-7, epochs=20)
    published = "inf/if_multiGPU_imagenet32.py"
    yield _preset("if-glow-imagenet32", _IMAGENET32, deep, recipe, published)
    recipe = _Recipe(learning_rate=1e-4, warmup=2.0, gamma=0.99997, clip=1.0, epochs=20)
    shallow = replace(wider, block_size=32)
    published = "inf/experiments/if_glow_imagenet32.py"
    augmented = _augmented(_IMAGENET32, "cifar")
    yield _preset("if-glow-imagenet32-small", augmented, shallow, recipe, published)
    fast = replace(_INVERSE, num_blocks=3, block_size=48, mixing="conv1x1")
    recipe = _Recipe(batch_size=250, milestones=_STEPS_OF_25, clip=1.0)
    published = "inf/if_imagenet_multi_gpu.py"
    yield _preset("if-fastflow-imagenet32", augmented, fast, recipe, published)
    yield from _of_the_readme()


def _of_the_readme() -> Iterator[Preset[GlowConfig]]:
    """Experiments that Inverse-Flow's README lists and its code has no script for.

    Without its MNIST of 3 blocks of 32 steps: images of 28x28 cannot be halved three times.
    """
    flow, recipe = (
        replace(_INVERSE, actnorm=True, mixing="conv1x1"),
        _Recipe(warmup=1.0, clip=100.0),
    )
    wide = replace(flow, block_size=16)
    short = replace(recipe, epochs=20)
    yield _preset("if-glow-imagenet32-readme", _IMAGENET32, wide, short, "README")
    yield _preset("if-glow-imagenet64", _IMAGENET64, wide, short, "README")
    deep = replace(flow, num_blocks=3, block_size=32)
    for side, data in _CELEBA.items():
        yield _preset(f"if-glow-celeba{side}", data, deep, recipe, "README")


def _other_convolutions() -> Iterator[Preset[GlowConfig]]:
    finc = LayersConfig(linear="fincflow", block_size=16, mixing="conv1x1")
    recipe = _Recipe(batch_size=250, gamma=0.99)
    yield _preset("finc-mnist", _MNIST, finc, recipe, "fastflow_mnist.py")
    spline = replace(finc, activation="spline", n_bins=7, tail_bound=20.0, mixing="none")
    spline = replace(spline, individual=True)
    published = "inf/experiments/ff_glow_mnist.py"
    slow = _Recipe(learning_rate=1e-5, gamma=0.9997, clip=1.0)
    yield _preset("finc-spline-mnist", _augmented(_MNIST, "mnist"), spline, slow, published)
    deep = replace(finc, num_blocks=3, block_size=32)
    # The script uses Rprop, which is meant for whole batches; Adam here.
    recipe = _Recipe(batch_size=400, gamma=0.99997)
    yield _preset("finc-cifar", _CIFAR, deep, recipe, "fastflow_cifar.py")
    recipe = _Recipe(batch_size=300, milestones=_STEPS_OF_25, clip=1.0)
    deeper = replace(deep, block_size=48)
    yield _preset("finc-imagenet32", _IMAGENET32, deeper, recipe, "fastflow_imagenet32.py")
    deepest = replace(deeper, num_blocks=4)
    recipe = _Recipe(batch_size=10, clip=1.0, epochs=20)
    yield _preset("finc-imagenet64", _IMAGENET64, deepest, recipe, "fastflow_imagenet64.py")
    macow = LayersConfig(
        linear="macow",
        num_blocks=3,
        block_size=12,
        coupling="sigmoid",
        macow_scale="sigmoid",
        macow_form="released",
    )
    recipe = _Recipe(batch_size=512, warmup=50 / 78, ema_decay=0.999)
    yield _preset("macow-cifar", _CIFAR, macow, recipe, "a MaCow of equal steps on every level")
    cinc = LayersConfig(linear="cincflow", num_blocks=3, block_size=32, mixing="conv1x1")
    yield _preset("cinc-cifar", _CIFAR, cinc, _Recipe(), "CInC Flow, Table 2")


_SMALL: dict[str, LayersConfig] = {
    "inverse-conv": LayersConfig(linear="inverse-conv", mixing="conv1x1", tap_bound=0.9),
    "fincflow": LayersConfig(linear="fincflow", mixing="conv1x1"),
    "conv1x1": LayersConfig(linear="conv1x1"),
    "self-normalizing": LayersConfig(linear="self-normalizing", kernel_size=1),
}


def _small() -> Iterator[Preset[GlowConfig]]:
    """Four flows of equal depth and width, to be compared on one machine."""
    training = TrainingConfig(
        iterations=1000,
        batch_size=100,
        optimizer=OptimizerConfig(schedule=ScheduleConfig(warmup=100)),
        gradient_clip=100.0,
        evaluate_every=100,
        figures_every=1000,
    )
    images = ImagesConfig(data="mnist", validation_size=1000, test_draws=1)
    for name, flow in _SMALL.items():
        config = GlowConfig(
            images=images,
            flow=replace(flow, coupling_width=64),
            self_norm=SelfNormConfig(reconstruction_weight=100.0),
            timing=True,
            training=training,
        )
        yield Preset(f"small-{name}-mnist", config, f"{_summary(config)}, brief")


def _compared() -> Iterator[Preset[GlowConfig]]:
    """Inverse-convolution flows of 200,000 parameters, beside the contractive ones of that size."""
    training = TrainingConfig(
        iterations=1000,
        batch_size=100,
        optimizer=OptimizerConfig(
            learning_rate=3e-3, schedule=ScheduleConfig(warmup=30, anneal="cosine")
        ),
        gradient_clip=100.0,
        ema_decay=0.98,
        evaluate_every=50,
        figures_every=250,
    )
    mnist = ImagesConfig(data="mnist", validation_size=200, test_size=1000, test_draws=1)
    cifar = replace(mnist, data="cifar10", augment="flip", held_out=200, test_size=500)
    for images, width, alpha in ((mnist, 118, 1e-6), (cifar, 64, 0.05)):
        flow = replace(_SMALL["inverse-conv"], coupling_width=width, alpha=alpha)
        config = GlowConfig(images=images, flow=flow, training=training)
        summary = f"{_summary(config)}, of 200k"
        yield Preset(f"{images.data}-200k-inverse-conv", config, summary)


PRESETS: tuple[Preset[GlowConfig], ...] = (
    *_small(),
    *_compared(),
    *_fully_connected_and_cnn(),
    *_self_normalizing_glows(),
    *_inverse_flows(),
    *_other_convolutions(),
    *MLE_PRESETS,
)
"""Presets of the papers."""
