"""Figures as plain containers."""

import math
from typing import cast

import torch


def plain(value: object) -> object:
    """Dictionaries, lists, numbers and text for JSON: what is not finite there becomes None."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in cast("list[object]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def dtype_name(dtype: torch.dtype) -> str:
    """float32 of torch.float32."""
    return str(dtype).removeprefix("torch.")
