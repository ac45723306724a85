"""A two-dimensional density and a flow of equal blocks."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flow_apps.config import TrainingConfig, require, require_counts, require_spread
from flow_apps.config.contraction import BlockName, ContractionConfig
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.config.neighbours import only_with
from flow_apps.config.optimizer import OptimizerConfig

DensityName: TypeAlias = Literal[
    "2spirals", "8gaussians", "checkerboard", "circles", "moons", "pinwheel", "rings", "swissroll"
]

NetName: TypeAlias = Literal["dense", "sandwich", "feedforward"]


# What each kind of net has, with what it is beside the others.
_OF_NETS: dict[str, tuple[float, tuple[NetName, ...]]] = {
    "growth": (16, ("dense",)),
    "width": (16, ("sandwich", "feedforward")),
    "gain": (0.9, ("sandwich",)),
}
# Points come within .01 of zero, where what G rounds is more than a millionth of them.
ATOL = 2e-7


@dataclass(frozen=True, kw_only=True)
class Toy2dConfig:
    """A density and a flow of equal blocks.

    Attributes:
        density: Name of the density, see `flow_data.TOY_DENSITIES`.
        block: Kind of the blocks: i-DenseNets and Residual Flows are residual; implicit ones have
            two maps each.
        blocks: Number of blocks.
        net: Kind of their maps: dense nets, whose layers are normalised; sandwich nets, whose
            Lipschitz constant is `contraction.coeff` by construction; or feedforward nets,
            normalised too, whose last layer starts near zero.
        growth: Channels that every dense layer adds.
        width: Of the hidden layers of sandwich and feedforward nets.
        depth: Hidden layers of a map.
        gain: Where the learned output gains of sandwich nets start.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        actnorm: Whether layers of activation normalisation are before the blocks and after each.
        test_size: Fresh points of every test.
        contraction: How Lipschitz constants are kept.
        estimator: How log-determinants are had.
        training: Length, optimizers and reporting.
    """

    density: DensityName = "2spirals"
    block: BlockName = "monotone"
    blocks: int = 10
    net: NetName = "dense"
    growth: int = field(default=16, metadata=only_with(("net", ("dense",)), otherwise=16))
    width: int = field(
        default=16, metadata=only_with(("net", ("sandwich", "feedforward")), otherwise=16)
    )
    depth: int = 3
    gain: float = field(default=0.9, metadata=only_with(("net", ("sandwich",)), otherwise=0.9))
    activation: str = "cpila"
    actnorm: bool = False
    test_size: int = 10_000
    contraction: ContractionConfig = field(default_factory=lambda: ContractionConfig(atol=ATOL))
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            optimizer=OptimizerConfig(weight_decay=1e-5),
            figures_every=5000,
            compile=True,
            threads=1,
        )
    )

    def __post_init__(self) -> None:
        require_counts(self, "blocks", most=1000)
        require_counts(self, "depth", most=64)
        require_counts(self, "growth", "width", most=4096)
        require(0 < self.gain < 1, f"gain: expected between 0 and 1, exclusive, got {self.gain}")
        for name, (usual, nets) in _OF_NETS.items():
            fits = self.net in nets or getattr(self, name) == usual
            require(fits, f"{name}: belongs to net={' or '.join(nets)}, not to net={self.net}")
        require_counts(self, "test_size", most=10**8)
        require_spread(self.test_size)
