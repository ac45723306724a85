"""The experiments: each is a folder, and registers itself when it is imported here."""

from flow_apps.experiments import (
    classify,
    fit1d,
    flow2d,
    flowgan,
    glow,
    image,
    inn_classify,
    regression2d,
    tabular,
    toy2d,
)
from flow_apps.registry import EXPERIMENTS, all_presets, find_experiment, find_preset

__all__ = [
    "EXPERIMENTS",
    "all_presets",
    "classify",
    "find_experiment",
    "find_preset",
    "fit1d",
    "flow2d",
    "flowgan",
    "glow",
    "image",
    "inn_classify",
    "regression2d",
    "tabular",
    "toy2d",
]
