"""Compilation of the maps of a model."""

from collections.abc import Iterable

from torch import nn

from flow_core.maps.dense import DenseNet
from flow_core.maps.pure import inductor


def compile_maps(model: nn.Module, batch_sizes: Iterable[int]) -> None:
    """Let Inductor fuse the evaluation of every dense net of `model` for these batch sizes.

    First derivatives only: a second derivative through compiled code raises in torch. Needs a
    C++ compiler on CPU; the first evaluation of each size compiles.
    """
    runner = inductor(frozenset(batch_sizes))
    for module in model.modules():
        if isinstance(module, DenseNet):
            module.runner = runner
