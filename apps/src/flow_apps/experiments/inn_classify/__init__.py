"""Classes of images told from the latent of an invertible network, and how well that inverts.

Source: Behrmann et al. 2021 (Understanding and mitigating exploding inverses), §5.2.
"""

from flow_apps.experiments.inn_classify.config import InnClassifyConfig
from flow_apps.experiments.inn_classify.presets import PRESETS
from flow_apps.registry import Experiment, register

INN_CLASSIFY = register(
    Experiment(
        name="inn-classify",
        summary="Tell classes of images by an invertible network.",
        config=InnClassifyConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.inn_classify.build:BUILDERS",
        changeable=("images.data_root", "images.test_batch_size", "images.test_size", "stability."),
    )
)
