"""Two-dimensional flows, and where in the plane they invert.

Source: Behrmann et al. 2021 (Understanding and mitigating exploding inverses), §5.1.
"""

from flow_apps.experiments.flow2d.config import Flow2dConfig
from flow_apps.experiments.flow2d.presets import PRESETS
from flow_apps.registry import Experiment, register

FLOW2D = register(
    Experiment(
        name="flow2d",
        summary="Learn a 2-D density, and map where the flow inverts.",
        config=Flow2dConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.flow2d.build:BUILDERS",
        changeable=("test_size", "grid."),
    )
)
