"""Images by contractive blocks: convolutional Monotone Flows and i-DenseNets.

Source of the architecture: Chen et al. 2019 (Residual Flows), §4; Ahn et al. 2022 (Monotone Flows),
§5.3, at a size for one machine.
"""

from flow_apps.experiments.image.config import ImageConfig
from flow_apps.experiments.image.presets import PRESETS
from flow_apps.registry import Experiment, register

IMAGE = register(
    Experiment(
        name="image",
        summary="Learn images by contractive blocks",
        config=ImageConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.image.build:BUILDERS",
        changeable=(
            "images.data_root",
            "images.test_batch_size",
            "images.importance_samples",
            "images.test_draws",
            "images.test_size",
        ),
    )
)
