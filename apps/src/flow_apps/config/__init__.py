"""Configs: frozen dataclasses, their JSON, and single fields set from the command line.

Nothing here imports torch, so that names, presets and mistakes in them are had at once.
"""

from flow_apps.config.checks import require, require_counts, require_spread, suggestion
from flow_apps.config.codec import from_json, to_json
from flow_apps.config.describe import FieldDescription, describe
from flow_apps.config.neighbours import only_with
from flow_apps.config.optimizer import OptimizerConfig, ScheduleConfig
from flow_apps.config.overrides import apply_overrides, differences, flat, parse_assignments
from flow_apps.config.training import TrainingConfig

__all__ = [
    "FieldDescription",
    "OptimizerConfig",
    "ScheduleConfig",
    "TrainingConfig",
    "apply_overrides",
    "describe",
    "differences",
    "flat",
    "from_json",
    "only_with",
    "parse_assignments",
    "require",
    "require_counts",
    "require_spread",
    "suggestion",
    "to_json",
]
