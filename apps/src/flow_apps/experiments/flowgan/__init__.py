"""Flows that are trained against a discriminator, and what becomes of their inverse.

Sources: Grover et al. 2018 (Flow-GAN); Behrmann et al. 2021 (Understanding and mitigating exploding
inverses), §5.1.
"""

from flow_apps.experiments.flowgan.config import FlowGanConfig
from flow_apps.experiments.flowgan.presets import PRESETS
from flow_apps.registry import Experiment, register

FLOWGAN = register(
    Experiment(
        name="flowgan",
        summary="Learn images by a flow that is trained against a discriminator",
        config=FlowGanConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.flowgan.build:BUILDERS",
        changeable=(
            "images.data_root",
            "images.test_batch_size",
            "images.test_draws",
            "images.test_size",
            "stability.",
            "samples",
            "judge",
            "judge_confidence",
        ),
    )
)
