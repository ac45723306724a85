"""Densities of tables: Implicit Normalizing Flows, monotone and residual flows.

Source: Lu et al. 2021 (Implicit Normalizing Flows), §5.2 and Table 2; tables and divisions of
Papamakarios et al. 2017 (Masked Autoregressive Flows).
"""

from flow_apps.experiments.tabular.config import TabularConfig
from flow_apps.experiments.tabular.presets import PRESETS
from flow_apps.registry import Experiment, register

TABULAR = register(
    Experiment(
        name="tabular",
        summary="Learn the density of a table.",
        config=TabularConfig,
        presets=PRESETS,
        builders="flow_apps.experiments.tabular.build:BUILDERS",
        changeable=(
            "table.data_root",
            "table.test_batch_size",
            "table.test_size",
            "table.validation_size",
        ),
    )
)
