"""The image models of Monotone Flows, i-DenseNets, Residual and Implicit Flows with their recipes.

Sources: Ahn et al. 2022 (Monotone Flows), §5 and released code; Perugachi-Diaz et al. 2021
(i-DenseNets); Chen et al. 2019 (Residual Flows); Lu et al. 2021 (Implicit Normalizing Flows), Table
3 and released code. Epochs are steps here. What differs from the scripts: validation images are
held out of the training images, where the scripts choose their weights by test images;
log-determinants are estimated by Krylov subspaces, whose values are likelihoods, unless an
`estimator` of the papers is asked for by name.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.dequantization import NoiseConfig
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.registry import Preset

_EPOCHS = 1000
_WARMUP = 1000


@dataclass(frozen=True, kw_only=True)
class _Data:
    """Images of a recipe.

    Attributes:
        flags: How the scripts name them.
        images: The same as a config.
        count: Images to train on.
        alpha: Of the logit transform.
    """

    flags: str
    images: ImagesConfig
    count: int
    alpha: float = 0.05


_IMAGES = ImagesConfig(validation_size=1000, test_draws=3)
_MNIST = _Data(
    flags="--data mnist --imagesize 28",
    images=replace(_IMAGES, data="mnist"),
    count=55_000,
    alpha=1e-6,
)
_CIFAR = _Data(
    flags="--data cifar10",
    images=replace(_IMAGES, data="cifar10", augment="flip"),
    count=45_000,
)
_IMAGENET32 = _Data(
    flags="--data imagenet32",
    images=replace(_IMAGES, data="imagenet32", held_out=20_000, test_size=50_000),
    count=1_261_149,
)
_IMAGENET64 = _Data(
    flags="--data imagenet64 --squeeze-first True --factor-out True",
    images=replace(_IMAGES, data="imagenet64", held_out=20_000, test_size=50_000),
    count=1_261_149,
)


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """How a model is trained.

    Attributes:
        batch: Images of a backward pass.
        update_freq: Backward passes of a step.
        learning_rate: After the warm-up.
        coeff: Bound on the spectral norm of every layer.
        concat_from: First epoch that changes the weights of the concatenations.
        mem_eff: Whether a pass is computed again in place of being kept.
    """

    batch: int = 64
    update_freq: int = 1
    learning_rate: float = 1e-3
    coeff: float = 0.98
    concat_from: int = 25
    mem_eff: bool = True

    def training(self, steps: int) -> TrainingConfig:
        """The recipe with that many steps in an epoch; warm-ups count backward passes."""
        return TrainingConfig(
            iterations=_EPOCHS * steps,
            batch_size=self.batch * self.update_freq,
            accumulate=self.update_freq,
            optimizer=OptimizerConfig(
                learning_rate=self.learning_rate,
                options={"betas": (0.9, 0.99)},
                schedule=ScheduleConfig(warmup=_WARMUP // self.update_freq),
            ),
            gradient_clip=1.0,
            ema_decay=0.999,
            evaluate_every=steps,
            figures_every=steps,
        )

    def estimator(self) -> EstimatorConfig:
        """Of log-determinants."""
        return (
            EstimatorConfig(train="krylov", recompute=True) if self.mem_eff else EstimatorConfig()
        )

    def flags(self) -> str:
        """What the scripts are told."""
        return (
            f"--nepochs {_EPOCHS} --batchsize {self.batch} --update-freq {self.update_freq} "
            f"--lr {self.learning_rate} --warmup-iters {_WARMUP} --mem-eff {self.mem_eff}"
        )


_DENSE = ImageConfig(
    scales=(16, 16, 16),
    growth=172,
    depth=3,
    dense_blocks=4,
    dense_growth=32,
    dense_entrance=64,
)
_DEEPER = replace(_DENSE, scales=(32, 32, 32))
_RESIDUAL_FLOW = ImageConfig(
    block="residual",
    scales=(16, 16, 16),
    net="feedforward",
    activation="lipswish",
    dense_blocks=4,
)
_IMPLICIT_FLOW = replace(_RESIDUAL_FLOW, block="implicit", scales=(2, 2, 2), dense_blocks=0)
_NOISE = NoiseConfig(kind="variational", block="residual", steps=3, width=64)

_ACTS = {"cpila": "CPila", "clipswish": "CLipSwish", "lipswish": "swish"}


def _preset(
    name: str, data: _Data, model: ImageConfig, recipe: _Recipe, summary: str
) -> Preset[ImageConfig]:
    steps = data.count // (recipe.batch * recipe.update_freq)
    config = replace(
        model,
        images=data.images,
        alpha=data.alpha,
        contraction=ContractionConfig(
            coeff=recipe.coeff, learn_concat_from=recipe.concat_from * steps + 1
        ),
        estimator=recipe.estimator(),
        training=recipe.training(steps),
    )
    command = f"python train_img.py {data.flags} {_model_flags(model, recipe)} {recipe.flags()}"
    return Preset(name, config, summary, command)


def _model_flags(model: ImageConfig, recipe: _Recipe) -> str:
    """What the scripts are told about a model."""
    blocks = "-".join(map(str, model.scales))
    flags = (
        f"--nblocks {blocks} --act {_ACTS[model.activation]} --fc-end {bool(model.dense_blocks)}"
    )
    if model.block == "implicit":
        return f"{flags} --preact True --coeff {recipe.coeff} --n-dist poisson --n-exact-terms 10"
    if model.net == "feedforward":
        return flags
    flags += (
        f" --densenet True --densenet_depth {model.depth} --densenet_growth {model.growth} "
        f"--learnable_concat True --start_learnable_concat {recipe.concat_from} "
        f"--monotone_resolvent {model.block == 'monotone'} --n-exact-terms 10"
    )
    if model.dequantizer.kind == "uniform":
        return flags
    return f"{flags} --var-deq True --var-deq-nblocks 3 --var-deq-act CPila --var-deq-mf False"


def _monotone_flows() -> Iterator[Preset[ImageConfig]]:
    four_passes = _Recipe(update_freq=4, mem_eff=False)
    yield _preset(
        "mnist-monotone-full", _MNIST, _DENSE, four_passes, "MNIST, Monotone Flow of the paper"
    )
    summary = "CIFAR-10, Monotone Flow (ablation row 4)"
    yield _preset("cifar10-monotone", _CIFAR, _DENSE, _Recipe(), summary)
    large = _Recipe(batch=256, learning_rate=4e-3, concat_from=0)
    summary = "ImageNet32, Monotone Flow"
    yield _preset("imagenet32-monotone", _IMAGENET32, _DEEPER, large, summary)
    squeezed = replace(_DEEPER, squeeze_first=True, factor_out=True)
    summary = "ImageNet64, Monotone Flow"
    yield _preset("imagenet64-monotone", _IMAGENET64, squeezed, large, summary)


def _ablation() -> Iterator[Preset[ImageConfig]]:
    smooth = replace(_DENSE, activation="clipswish")
    summary = "CIFAR-10, i-DenseNet (ablation row 1)"
    dense = replace(smooth, block="residual")
    yield _preset("cifar10-idensenet", _CIFAR, dense, _Recipe(), summary)
    summary = "the same with CPila (ablation row 2)"
    residual = replace(_DENSE, block="residual")
    yield _preset("cifar10-idensenet-cpila", _CIFAR, residual, _Recipe(), summary)
    summary = "monotone with CLipSwish (ablation row 3)"
    yield _preset("cifar10-monotone-clipswish", _CIFAR, smooth, _Recipe(), summary)


def _variational() -> Iterator[Preset[ImageConfig]]:
    noisy = replace(_DENSE, dequantizer=_NOISE)
    summary = "Monotone Flow, variational dequantisation"
    yield _preset("cifar10-vdq", _CIFAR, noisy, _Recipe(), summary)
    recipe = _Recipe(batch=128, learning_rate=2e-3, concat_from=2)
    noisy = replace(_DEEPER, dequantizer=_NOISE)
    summary = "the same, 69.0M: the model of the paper"
    yield _preset("imagenet32-vdq", _IMAGENET32, noisy, recipe, summary)
    short = replace(noisy, dense_blocks=0)
    summary = "the same, 66.2M: the command of the README"
    yield _preset("imagenet32-vdq-readme", _IMAGENET32, short, recipe, summary)


def _earlier() -> Iterator[Preset[ImageConfig]]:
    """i-DenseNets and Residual Flows."""
    for depth, growth in ((3, 178), (2, 318), (4, 122), (5, 92)):
        model = ImageConfig(
            block="residual",
            scales=(4, 4, 4),
            activation="clipswish",
            depth=depth,
            growth=growth,
            dense_blocks=4,
            dense_entrance=64,
        )
        name = f"cifar10-idensenet-4-depth{depth}"
        summary = f"i-DenseNet, 4-4-4, {depth} layers of growth {growth}"
        yield _preset(name, _CIFAR, model, _Recipe(), summary)
    summary = "CIFAR-10, Residual Flow"
    yield _preset("cifar10-residualflow", _CIFAR, _RESIDUAL_FLOW, _Recipe(), summary)
    summary = "MNIST, Residual Flow"
    yield _preset("mnist-residualflow", _MNIST, _RESIDUAL_FLOW, _Recipe(), summary)


def _implicit_flows() -> Iterator[Preset[ImageConfig]]:
    """And its rival, which the released code of the paper cannot run."""
    recipe = _Recipe(coeff=0.9)
    summary = "CIFAR-10, Implicit Normalizing Flow"
    yield _preset("cifar10-impflow", _CIFAR, _IMPLICIT_FLOW, recipe, summary)
    equal = replace(_IMPLICIT_FLOW, block="residual", scales=(4, 4, 4))
    summary = "CIFAR-10, Residual Flow of equal size"
    yield replace(_preset("cifar10-resflow", _CIFAR, equal, recipe, summary), published="")


PUBLISHED = (
    *_monotone_flows(),
    *_ablation(),
    *_variational(),
    *_earlier(),
    *_implicit_flows(),
)
"""Models that take GPUs, and weeks."""
