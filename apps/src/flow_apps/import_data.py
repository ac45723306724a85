"""Images for imported checkpoints, which do not say what they were trained on."""

from collections.abc import Mapping

from flow_core.dequantization import Dequantized

from flow_apps.config import apply_overrides
from flow_apps.config.images import ImageData, ImagesConfig
from flow_apps.errors import ConfigError

_USUAL: dict[tuple[int, ...], ImageData] = {(3, 32, 32): "cifar10", (1, 28, 28): "mnist"}


def images_of_import(
    model: Dequantized, fields: Mapping[str, object], data_root: str | None
) -> ImagesConfig:
    """The set that an import is tested on: that of its size, unless another is set.

    Args:
        model: The distribution of the images.
        fields: Of `ImagesConfig`, by name.
        data_root: Where they are.

    Raises:
        ConfigError: If no set has its size by itself, or the images do not fit.
    """
    shape = tuple(model.event_shape)
    usual = {"data": _USUAL[shape]} if shape in _USUAL else {}
    given = {**usual, **fields, **({} if data_root is None else {"data_root": data_root})}
    if "data" not in given:
        raise ConfigError(f"set: expected --set data=NAME, of images of shape {shape}")
    config = apply_overrides(ImagesConfig(), given)
    if config.known_shape not in (None, shape) or config.levels != model.levels:
        raise ConfigError(
            f"set: expected images of shape {shape} with {model.levels} levels, {config.data} has "
            f"{config.known_shape} with {config.levels}; apps/ood.py resizes them"
        )
    channels, height, width = shape
    return config.with_shape((channels, height, width))
