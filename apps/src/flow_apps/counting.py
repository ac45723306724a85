"""Presets with the sizes of their models."""

from collections.abc import Iterable
from typing import Any

import torch

from flow_apps.registry import Experiment, Preset


def described_presets(
    presets: Iterable[tuple[Experiment[Any], Preset[Any]]],
) -> list[dict[str, object]]:
    """Of every preset name, experiment, summary, published command, parameters.

    Models are made on the meta device, where they take no memory. Those whose images only files
    could describe have no count.
    """
    described: list[dict[str, object]] = []
    for experiment, preset in presets:
        with torch.device("meta"):
            model = experiment.load().model(preset.config)
        described.append(
            {
                "name": preset.name,
                "experiment": experiment.name,
                "description": preset.summary,
                "published": preset.published or None,
                "parameters": sum(p.numel() for p in model.parameters()),
            }
        )
    return described
