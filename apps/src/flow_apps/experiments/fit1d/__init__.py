"""One-dimensional functions: what residual, implicit and monotone blocks can represent.

Source: Ahn et al. 2022 (Monotone Flows), Fig. 4; Lu et al. 2021 (Implicit Normalizing Flows),
Fig. 1.
"""

from flow_apps.experiments.fit1d.config import Fit1dConfig
from flow_apps.experiments.fit1d.presets import PRESETS
from flow_apps.registry import Experiment, register

FIT1D = register(
    Experiment(
        name="fit1d",
        summary="Fit a one-dimensional function.",
        config=Fit1dConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.fit1d.build:BUILDERS",
        changeable=("test_size",),
    )
)
