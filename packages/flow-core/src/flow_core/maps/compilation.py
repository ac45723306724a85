"""Compilation of the maps of a model."""

from collections.abc import Iterable

from torch import nn

from flow_core.maps.dense import DenseNet
from flow_core.maps.pure import inductor


def compile_maps(model: nn.Module, batch_sizes: Iterable[int]) -> None:
    """Let Inductor fuse the evaluation of every dense net of `model` for these batch sizes.

    In small dimension that is every evaluation, the Newton solve and first derivatives; other nets
    have their values compiled where no graph is wanted. The rest runs eager, derivatives of higher
    order too. Needs a C++ compiler on CPU; the first evaluation of each kind compiles.
    """
    runner = inductor(frozenset(batch_sizes))
    for module in model.modules():
        if isinstance(module, DenseNet):
            module.runner = runner
