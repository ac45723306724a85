"""What a model does its work with, from the config."""

from flow_core.lipschitz import (
    ExactSVD,
    GolubKahan,
    PowerIteration,
    SpectralMethod,
    lipschitz_layers,
)
from flow_core.settings import Settings, Solve
from flow_logdet import (
    Estimator,
    Exact,
    Krylov,
    Recompute,
    StochasticEstimator,
    published_estimator,
)
from flow_solvers import Tolerance
from torch import nn

from flow_apps.config.contraction import ContractionConfig, SpectralName
from flow_apps.config.estimation import EstimatorConfig, EstimatorName

_SPECTRAL: dict[SpectralName, SpectralMethod] = {
    "golub-kahan": GolubKahan(),
    "power": PowerIteration(),
}


def solve(config: ContractionConfig) -> Solve:
    """Settings of the solves of a block."""
    tolerance = Tolerance(config.rtol, config.atol)
    return Solve(tolerance=tolerance, on_failure=config.on_solver_failure)


def training_settings(config: EstimatorConfig, dim: int, compiled: frozenset[int]) -> Settings:
    """What training does its work with.

    Args:
        config: Estimators by name.
        dim: Values of a sample.
        compiled: Batch sizes to compile for.
    """
    estimator = _estimator(config.train, dim)
    if config.recompute and isinstance(estimator, StochasticEstimator):
        estimator = Recompute(estimator)
    return Settings(estimator=estimator, compiled=compiled)


def test_settings(config: EstimatorConfig, dim: int) -> Settings:
    """What tests and pictures do their work with."""
    return Settings(estimator=_estimator(config.test, dim))


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
    # Who asks for the exact one by name gets it in any dimension.
    return Exact(limit=dim) if name in ("exact", "brute-force") else published_estimator(name)
