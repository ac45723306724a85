"""Two-dimensional densities: i-DenseNets and Monotone Flows with exact log-determinants.

Source: Ahn et al. 2022 (Monotone Flows), §5.1 and Table 1.
"""

from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.experiments.toy2d.presets import PRESETS
from flow_apps.registry import Experiment, register

TOY2D = register(
    Experiment(
        name="toy2d",
        summary="Learn a two-dimensional density.",
        config=Toy2dConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.toy2d.build:BUILDERS",
        changeable=("test_size",),
    )
)
