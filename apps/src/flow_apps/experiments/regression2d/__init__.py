"""An invertible network that is asked for a map without an inverse.

Source: Behrmann et al. 2021 (Understanding and mitigating exploding inverses), §5.1.
"""

from flow_apps.experiments.regression2d.config import Regression2dConfig
from flow_apps.experiments.regression2d.presets import PRESETS
from flow_apps.registry import Experiment, register

REGRESSION2D = register(
    Experiment(
        name="regression2d",
        summary="Fit a projection of the plane by an invertible network.",
        config=Regression2dConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.regression2d.build:BUILDERS",
        changeable=("test_size",),
    )
)
