"""Named configs: experiments of the papers, as data."""

from flow_apps.presets.glow import GLOW
from flow_apps.presets.images import IMAGES
from flow_apps.presets.impflow import IMPFLOW
from flow_apps.presets.monotone import MONOTONE
from flow_apps.presets.preset import Preset

PRESETS: dict[str, Preset] = {
    preset.name: preset for preset in (*MONOTONE, *IMPFLOW, *IMAGES, *GLOW)
}
"""All presets by name."""

DEFAULTS = {
    "fit1d": "d-monotone",
    "toy2d": "2spirals-monotone",
    "image": "digits-monotone",
    "glow": "small-inverse-conv-mnist",
}
"""What runs where no preset is named."""

__all__ = ["DEFAULTS", "PRESETS", "Preset"]
