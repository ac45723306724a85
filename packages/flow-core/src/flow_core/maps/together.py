"""Binding all small maps of a model at once: one set of operations for those of one shape."""

from collections import defaultdict
from collections.abc import Hashable, Mapping

import torch
from torch import nn

from flow_core.maps.lipschitz_map import Held, LipschitzMap


def bound_together(
    model: nn.Module, known: Mapping[LipschitzMap, Held]
) -> dict[LipschitzMap, Held]:
    """The small maps of `model` that are not known yet, bound for one pass in this grad mode.

    Small ones are those whose `binding_key` is not None: they spend their time in launching
    operations. Larger ones and sharded ones are bound where they are used, so that they can be
    sharded and hooked on their own.
    """
    groups: defaultdict[Hashable, list[LipschitzMap]] = defaultdict(list)
    for module in model.modules():
        if isinstance(module, LipschitzMap) and module not in known:
            key = module.binding_key()
            if key is not None:
                groups[type(module), key].append(module)
    graph = torch.is_grad_enabled()
    bound: dict[LipschitzMap, Held] = {}
    for maps in groups.values():
        made = maps[0].bind_group(maps)
        bound.update({m: Held(b, graph) for m, b in zip(maps, made, strict=True)})
    return bound
