"""A set of images, a flow that makes them, and what tells its images from real ones."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from flow_apps.config import OptimizerConfig, TrainingConfig, require, require_counts
from flow_apps.config.images import ImagesConfig
from flow_apps.config.neighbours import OtherThan, only_with, without_effect
from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.config.stability import StabilityConfig
from flow_apps.experiments.glow.config import LayersConfig

DiscriminatorName: TypeAlias = Literal["dcgan", "mine", "biggan", "inv"]

GENERATOR, DISCRIMINATOR = "generator", "discriminator"

_ADVERSARIAL = only_with(("weights.adversarial", OtherThan(0.0)))
_JUDGED = only_with(("judge", OtherThan(None)))
_PATTERNS = {GENERATOR: "model.", DISCRIMINATOR: "discriminator."}


def adversarial_training(
    *,
    learning_rate: float = 5e-5,
    discriminator_rate: float = 1e-4,
    iterations: int = 1000,
    batch_size: int = 64,
    evaluate_every: int = 1000,
    figures_every: int = 1000,
    threads: int | None = None,
) -> TrainingConfig:
    """A step of each network for every batch, by the published optimizers."""
    betas = {"betas": (0.5, 0.99)}
    return TrainingConfig(
        iterations=iterations,
        batch_size=batch_size,
        optimizer=OptimizerConfig(learning_rate=learning_rate, options=betas, turn=GENERATOR),
        further_optimizers=(
            OptimizerConfig(
                learning_rate=discriminator_rate,
                options=betas,
                parameters=(f"{_PATTERNS[DISCRIMINATOR]}*",),
                turn=DISCRIMINATOR,
            ),
        ),
        evaluate_every=evaluate_every,
        figures_every=figures_every,
        threads=threads,
    )


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """What terms of the generator's loss count, all of them means in nats a sample.

    Attributes:
        adversarial: Of −log σ(D(x)), x being samples.
        base_density: Of −log p(z) of real images; z has the values that leave at every scale too.
        log_det: Of −log|det ∂z/∂x| of real images, in units of integers: the sum of both is their
            negative log-likelihood.
        entropy: Of log p(x), x being samples: the mean is minus the entropy of the model.
    """

    adversarial: float = 1.0
    base_density: float = 0.0
    log_det: float = 0.0
    entropy: float = 0.0

    def __post_init__(self) -> None:
        weights = vars(self)
        for name, weight in weights.items():
            require(0 <= weight < inf, f"{name}: expected 0 or a positive number, got {weight}")
        require(any(weights.values()), "weights: expected one that is positive, got zeros only")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """What tells samples from real images.

    Attributes:
        kind: dcgan: 4x4 convolutions with batch normalisations. mine: 3x3 and 4x4 convolutions
            with spectral norms. biggan: residual blocks with spectral norms. inv: a flow like the
            generator, of which the mean of z is told.
        width: Channels of its first convolution, of biggan of all; of inv, channels inside its
            couplings. None: 128, 64, 256 as published, of inv those of the generator.
        gradient_penalty: Weight of (‖∇D‖ − 1)² between real images and samples; 0 for none.
    """

    kind: DiscriminatorName = "mine"
    width: int | None = None
    gradient_penalty: float = 10.0

    def __post_init__(self) -> None:
        if self.width is not None:
            require_counts(self, "width", most=2048)
        weight = self.gradient_penalty
        require(0 <= weight < inf, f"gradient_penalty: expected 0 or more, got {weight}")


@dataclass(frozen=True, kw_only=True)
class FlowGanConfig:
    """Images, a flow of them that is a generator too, and its terms.

    Attributes:
        images: Which images.
        flow: What the generator is made of: the flow of the experiment `glow`.
        data_dependent_init: Whether ActNorms begin with statistics of a batch, else as the
            identity.
        weights: What the generator is trained on.
        discriminator: What tells its samples from real images.
        regularizers: Penalties on the conditioning.
        stability: How that is measured, at real images and at samples.
        samples: Samples that evaluations draw.
        judge: The folder of a run of `classify` whose network tells of the samples how many look
            like something and whether all classes are there; none for no such figures.
        judge_confidence: Probability of its likeliest class from which on it is confident.
        training: Length, reporting, and an optimizer for each of the turns generator and
            discriminator.
    """

    images: ImagesConfig = field(default_factory=ImagesConfig)
    flow: LayersConfig = field(default_factory=LayersConfig)
    data_dependent_init: bool = False
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    discriminator: DiscriminatorConfig = field(
        default_factory=DiscriminatorConfig, metadata=_ADVERSARIAL
    )
    regularizers: RegularizersConfig = field(
        default_factory=RegularizersConfig,
        metadata=without_effect(density="its terms are weights.base_density and weights.log_det"),
    )
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    samples: int = 1000
    judge: str | None = None
    judge_confidence: float = field(default=0.9, metadata=_JUDGED)
    training: TrainingConfig = field(default_factory=adversarial_training)

    def __post_init__(self) -> None:
        require_counts(self, "samples", most=10**6)
        confidence, density = self.judge_confidence, self.regularizers.density
        require(0 < confidence < 1, f"judge_confidence: expected in (0, 1), got {confidence}")
        instead = "weights.base_density and weights.log_det are its terms"
        require(density == 0, f"regularizers.density: expected 0, {instead}, got {density}")
        self.stability.require_multiple_of(self.training.evaluate_every)
        kind = self.flow.linear
        exact = kind != "self-normalizing"
        require(exact, f"flow.linear: expected one with an exact log-determinant, got {kind}")
        classes = self.flow.classes
        require(classes is None, f"flow.classes: expected none, samples have none, got {classes}")
        # Layers of one class share their code, which Dynamo compiles for a few of them only.
        compiled = self.training.compile
        require(not compiled, "compile: expected false, it is of no use for these models")
        self._require_turns()

    @property
    def turns(self) -> tuple[str, ...]:
        """Who takes a step."""
        return (GENERATOR, DISCRIMINATOR) if self.weights.adversarial else (GENERATOR,)

    def _require_turns(self) -> None:
        """Each network has optimizers, which change no other."""
        first, *others = self.training.optimizers
        found = tuple(dict.fromkeys(one.turn for one in (first, *others)))
        require(
            first.turn == GENERATOR and set(found) == set(self.turns),
            f"further_optimizers: expected optimizers of the turns {' and '.join(self.turns)} with "
            f"weights.adversarial={self.weights.adversarial:g}, that of the generator first, got "
            f"{' and '.join(found)}",
        )
        for one in others:
            own = all(name.startswith(_PATTERNS[one.turn]) for name in one.parameters)
            require(own, f"parameters: expected {_PATTERNS[one.turn]}* of turn {one.turn}")
