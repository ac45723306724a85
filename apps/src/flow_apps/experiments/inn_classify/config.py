"""A set of images and an invertible network with a linear layer on its latent."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from flow_apps.config import OptimizerConfig, TrainingConfig, require, require_counts
from flow_apps.config.classification import HeadsConfig
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.neighbours import OtherThan, any_of, only_with, without_effect
from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.config.stability import StabilityConfig

BlockOfInn: TypeAlias = Literal["additive", "affine", "residual", "monotone"]
PermutationOfInn: TypeAlias = Literal["conv", "shuffle", "reverse"]
AffineScaleName: TypeAlias = Literal["sigmoid", "exp", "half-range", "bounded-exp"]

_COUPLINGS = ("additive", "affine")
_CONTRACTIVE = ("residual", "monotone")
_OF_COUPLINGS = only_with(("block", _COUPLINGS))
_OF_AFFINE = only_with(("block", ("affine",)))
_OF_BOUNDED = only_with(("block", _CONTRACTIVE))
_OF_DENSITIES = only_with(("regularizers.density", OtherThan(0.0)))


@dataclass(frozen=True, kw_only=True)
class InnClassifyConfig:
    """A set of images and an invertible network of equal blocks.

    Attributes:
        images: Which images.
        block: Kind of the blocks. additive and affine are couplings, with an ActNorm and a
            permutation in front; residual and monotone blocks have a bounded condition number.
        permutation: conv: a 1x1 convolution, orthogonal at first; shuffle: a random order.
        levels: Scales, each of images half as large; nothing leaves in between.
        depth: Blocks of a level.
        width: Channels inside the networks of blocks.
        zero_init: Whether couplings begin as the identity.
        use_actnorm: Whether every coupling has an ActNorm in front of its permutation.
        use_actnorm_in_blocks: Whether the networks of couplings have ActNorms in place of biases.
        affine_scale: Scale function of affine couplings: sigmoid, σ(r + 2); exp, e^r; half-range
            and bounded-exp are bounded on both sides.
        affine_eps: What is added to a sigmoid or exp scale.
        condition: Condition number κ of the whole network, of all its inputs: blocks share it out.
        activation: Of contractive blocks, see `flow_core.lipschitz.ACTIVATIONS`.
        use_prior: Whether the density of the data, which `regularizers.density` asks for, has a
            standard normal latent; else it is the log-determinant alone.
        learn_top: Whether mean and scale of every channel of that latent are learned.
        inj_pad: Channels of zeros behind those of the image.
        zs_dim: How many values of the latent tell the classes; none for all.
        heads: How many classes there are.
        mean: Of every channel in [0, 1], or one for all: images are standardised with mean and std.
        std: Standard deviations that belong to the means.
        regularizers: Penalties on the conditioning.
        stability: How it is measured.
        contraction: How Lipschitz constants of contractive blocks are kept.
        training: Length, optimizers and reporting.
    """

    images: ImagesConfig = field(
        default_factory=ImagesConfig,
        metadata=without_effect(
            test_draws="tests of classes take the middle of bins and draw no noise",
            importance_samples="tests of classes have no likelihood",
        ),
    )
    block: BlockOfInn = "affine"
    permutation: PermutationOfInn = field(default="conv", metadata=_OF_COUPLINGS)
    levels: int = 3
    depth: int = 16
    width: int = 128
    zero_init: bool = field(default=True, metadata=_OF_COUPLINGS)
    use_actnorm: bool = field(default=True, metadata=_OF_COUPLINGS)
    use_actnorm_in_blocks: bool = field(default=False, metadata=_OF_COUPLINGS)
    affine_scale: AffineScaleName = field(default="sigmoid", metadata=_OF_AFFINE)
    affine_eps: float = field(
        default=0.0,
        metadata=only_with(
            ("block", ("affine",)), ("affine_scale", ("sigmoid", "exp")), otherwise=0.0
        ),
    )
    condition: float = field(default=100.0, metadata=_OF_BOUNDED)
    activation: str = field(default="lipswish", metadata=_OF_BOUNDED)
    use_prior: bool = field(default=True, metadata=_OF_DENSITIES)
    learn_top: bool = field(
        default=False,
        metadata=only_with(
            ("use_prior", (True,)), ("regularizers.density", OtherThan(0.0)), otherwise=False
        ),
    )
    inj_pad: int = 0
    zs_dim: int | None = None
    heads: HeadsConfig = field(
        default_factory=HeadsConfig,
        metadata=without_effect(channels="the latent is told by one linear layer"),
    )
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    regularizers: RegularizersConfig = field(default_factory=RegularizersConfig)
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    contraction: ContractionConfig = field(
        default_factory=ContractionConfig,
        metadata=only_with(any_of(("block", _CONTRACTIVE)))
        | without_effect(
            coeff="it follows from condition",
            concat_bound="there are no concatenations",
            learn_concat_from="there are no concatenations",
        ),
    )
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            iterations=2000,
            batch_size=128,
            optimizer=OptimizerConfig(learning_rate=1e-4),
            evaluate_every=500,
        )
    )

    def __post_init__(self) -> None:
        require_counts(self, "levels", most=16)
        require_counts(self, "depth", most=1024)
        require_counts(self, "width", most=8192)
        require_counts(self, "inj_pad", least=0, most=1024)
        if self.zs_dim is not None:
            require_counts(self, "zs_dim", most=10**9)
        eps = self.affine_eps
        require(0 <= eps < inf, f"affine_eps: expected 0 or more, got {eps}")
        fits = eps == 0 or self.affine_scale in ("sigmoid", "exp")
        require(fits, f"affine_eps: expected 0 of affine_scale={self.affine_scale}, got {eps}")
        learns = not self.learn_top or (self.use_prior and self.regularizers.density > 0)
        require(learns, "learn_top: expected use_prior=true and a positive regularizers.density")
        several = bool(self.mean) and len(self.mean) == len(self.std) and min(self.std) > 0
        require(several, f"std: expected a positive number for each mean, got {self.std}")
        kappa, least = self.condition, max(self.std) / min(self.std)
        possible = least < kappa < inf
        require(possible, f"condition: expected above {least:.4g}, that of std, got {kappa}")
        self.stability.require_multiple_of(self.training.evaluate_every)
