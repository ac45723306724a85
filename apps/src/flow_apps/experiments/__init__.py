"""The experiments: each is a folder, and registers itself when it is imported here."""

from flow_apps.experiments import fit1d, glow, image, toy2d
from flow_apps.registry import EXPERIMENTS, all_presets, find_experiment, find_preset

__all__ = [
    "EXPERIMENTS",
    "all_presets",
    "find_experiment",
    "find_preset",
    "fit1d",
    "glow",
    "image",
    "toy2d",
]
