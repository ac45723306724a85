"""Classes of images by contractive blocks.

The classifiers of i-DenseNets and Monotone Flows, with heads on the scales of a flow, and those of
Implicit Normalizing Flows, shaped like a ResNet. Sources: Chen et al. 2019 (Residual Flows), §5.3;
Ahn et al. 2022 (Monotone Flows), §5; Lu et al. 2021 (Implicit Normalizing Flows), §6.1.
"""

from flow_apps.experiments.classify.config import ClassifyConfig
from flow_apps.experiments.classify.presets import PRESETS
from flow_apps.registry import Experiment, register

CLASSIFY = register(
    Experiment(
        name="classify",
        summary="Tell classes of images by contractive blocks",
        config=ClassifyConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.classify.build:BUILDERS",
        changeable=("images.data_root", "images.test_batch_size", "images.test_size"),
    )
)
