"""Copies of models in which a sample that is not solved is that sample's affair."""

from dataclasses import replace

import torch

from flow_core.bijection import Bijection
from flow_core.blocks import FixedPointBlock
from flow_core.diagnostics.copies import copied, modules_in, trained
from flow_core.diagnostics.invertible import Invertible, InvertibleMap, invertible_map
from flow_core.distributions import Flow
from flow_core.settings import Settings
from flow_core.views import frozen


def lenient_map(
    model: Invertible, dtype: torch.dtype, using: Settings | None = None
) -> InvertibleMap:
    """The functions of a copy without gradients by its weights, whose solves never raise.

    What a solve that fails returns is its best iterate: how wrong that is, is what is measured.
    """
    copy = copied(model, dtype)
    for module in modules_in(copy):
        if isinstance(module, FixedPointBlock):
            module.solve = replace(module.solve, on_failure="return")
    for tensor in trained(copy):
        tensor.requires_grad_(False)
    if using is not None and using.solve is not None:
        using = replace(using, solve=replace(using.solve, on_failure="return"))
    # Weights stay as they are, so that contractions need be made of them only once.
    held = frozen(copy) if isinstance(copy, Bijection | Flow) else copy
    return invertible_map(held, using)
