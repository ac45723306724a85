"""The toy regression of Behrmann et al. 2021 as published, and with penalties that are seen."""

from collections.abc import Iterator
from dataclasses import replace

from flow_apps.config import OptimizerConfig
from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.experiments.regression2d.config import Regression2dConfig
from flow_apps.registry import Preset

_COMMAND = "python toy_2d_regression.py"
_WHOLE = Regression2dConfig()
_QUICK = Regression2dConfig(
    points=1000,
    training=replace(
        _WHOLE.training,
        iterations=1000,
        batch_size=1000,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        log_every=50,
        evaluate_every=50,
        figures_every=500,
    ),
)


def _presets() -> Iterator[Preset[Regression2dConfig]]:
    yield Preset("projection-quick", _QUICK, "a projection, few points and steps")
    yield _penalised("projection-quick", _QUICK, 1e-3, "")
    yield Preset("projection", _WHOLE, "a projection, not regularized", _COMMAND)
    yield _penalised("projection", _WHOLE, 1e-6, f"{_COMMAND} --nf_coeff=1e-6")
    yield _penalised("projection", _WHOLE, 1e-4, "")
    yield _penalised("projection", _WHOLE, 1e-3, "")


def _penalised(
    name: str, config: Regression2dConfig, density: float, command: str
) -> Preset[Regression2dConfig]:
    penalised = replace(config, regularizers=RegularizersConfig(density=density))
    told = f"{density:.0e}".replace("e-0", "e-")
    summary = f"a projection, density of data at {told}"
    return Preset(f"{name}-nf-{told}", penalised, summary, command)


PRESETS = tuple(_presets())
"""The first two are for a quick look, the others train as long as the published ones."""
