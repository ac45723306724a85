"""Images by invertible convolutions and couplings.

Sources: Nagar et al. 2025 (Inverse-Flow), Kallapa et al. 2023 (FInC Flow), Keller et al. 2021 (Self
Normalizing Flows), Kingma & Dhariwal 2018 (Glow).
"""

from flow_apps.experiments.glow.config import GlowConfig
from flow_apps.experiments.glow.presets import PRESETS
from flow_apps.registry import Experiment, register

GLOW = register(
    Experiment(
        name="glow",
        summary="Learn images by invertible convolutions and couplings",
        config=GlowConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.glow.build:BUILDERS",
        changeable=(
            "images.data_root",
            "images.test_batch_size",
            "images.importance_samples",
            "images.test_draws",
            "images.test_size",
        ),
    )
)
