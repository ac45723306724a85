"""What a model does its work with, from the config."""

from dataclasses import dataclass, field

from flow_core.lipschitz import (
    ExactSVD,
    GolubKahan,
    PowerIteration,
    SpectralMethod,
    lipschitz_layers,
)
from flow_core.memory import Checkpointed, MemoryPolicy, Reversible
from flow_core.settings import Settings, Solve
from flow_logdet import (
    Estimator,
    Exact,
    Krylov,
    Recompute,
    StochasticEstimator,
    default_estimator,
    published_estimator,
)
from flow_solvers import Tolerance
from torch import nn

from flow_apps.config import TrainingConfig
from flow_apps.config.contraction import ContractionConfig, SpectralName
from flow_apps.config.estimation import EstimatorConfig, EstimatorName

_SPECTRAL: dict[SpectralName, SpectralMethod] = {
    "golub-kahan": GolubKahan(),
    "power": PowerIteration(),
}
_ONE_PROBE = Krylov(steps=64)


def solve(config: ContractionConfig) -> Solve:
    """Settings of the solves of a block."""
    tolerance = Tolerance(config.rtol, config.atol)
    return Solve(tolerance=tolerance, on_failure=config.on_solver_failure)


def kept(config: TrainingConfig) -> MemoryPolicy | None:
    """What training keeps of a pass; None for everything."""
    if config.memory == "checkpointed":
        return Checkpointed(config.memory_layers)
    return Reversible() if config.memory == "reversible" else None


def training_settings(
    config: EstimatorConfig,
    dim: int,
    compiled: frozenset[int],
    memory: MemoryPolicy | None = None,
) -> Settings:
    """What training does its work with.

    Args:
        config: Estimators by name.
        dim: Values of a sample.
        compiled: Batch sizes to compile for.
        memory: What is kept of a pass.
    """
    estimator = _estimator(config.train, dim)
    if config.recompute and isinstance(estimator, StochasticEstimator):
        estimator = Recompute(estimator)
    return Settings(estimator=estimator, compiled=compiled, memory=memory)


@dataclass(frozen=True)
class SplitSettings:
    """What evaluations do their work with.

    Attributes:
        test: In the final test, and for pictures.
        validation: In evaluations while training goes on.
    """

    test: Settings = field(default_factory=Settings)
    validation: Settings = field(default_factory=Settings)

    def of(self, split: str) -> Settings:
        """Those of a split."""
        return self.test if split == "test" else self.validation


def split_settings(config: EstimatorConfig, dim: int) -> SplitSettings:
    """What evaluations do their work with, see `EstimatorConfig`."""
    return SplitSettings(
        test=Settings(estimator=_estimator(config.test, dim)),
        validation=Settings(estimator=_estimator(config.validation, dim)),
    )


def follow_spectra(model: nn.Module, config: ContractionConfig) -> None:
    """Let convolutions follow their spectral norms by the method of the config."""
    for layer in lipschitz_layers(model):
        if not isinstance(layer.spectral, ExactSVD):
            layer.spectral = _SPECTRAL[config.spectral]


def _estimator(name: EstimatorName, dim: int) -> Estimator | None:
    if name == "default":
        return None
    if name == "krylov":
        return Krylov()
    if name == "one-probe":
        usual = default_estimator(dim, training=False)
        return None if isinstance(usual, Exact) else _ONE_PROBE
    # Who asks for the exact one by name gets it in any dimension.
    return Exact(limit=dim) if name in ("exact", "brute-force") else published_estimator(name)
