"""Imported flows of images as distributions of integers."""

from pathlib import Path

from flow_core.dequantization import Dequantized, UniformDequantizer

from flow_apps.errors import ConfigError
from flow_apps.importing.folder import load_imported

_LEVELS = 256


def imported_images(folder: Path, device: str = "cpu") -> Dequantized:
    """The distribution of 8-bit images that an imported flow on [0, 1) implies.

    The published programs leave D·log 256 out, or count it from another unit: here it is in every
    likelihood, as in those of models that were trained here.

    Raises:
        CheckpointError: As in `load_imported`.
        ConfigError: The flow is none of images.
    """
    flow = load_imported(folder, device)
    if len(flow.event_shape) != 3:
        raise ConfigError(
            f"{folder}: expected a flow of images, got one of shape {tuple(flow.event_shape)}; "
            "flow_apps.load_flow loads it"
        )
    return Dequantized(flow, UniformDequantizer(), _LEVELS).eval()
