"""Binding small maps at once: one set of operations for those of one shape."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

import torch

from flow_core.maps.lipschitz_map import Held, LipschitzMap


def bound_together(
    maps: Iterable[LipschitzMap], known: Mapping[LipschitzMap, Held]
) -> dict[LipschitzMap, Held]:
    """The small ones of some maps that are not known yet, bound for one pass in this grad mode.

    Small ones are those whose `binding_key` is not None: they spend their time in launching
    operations. Larger ones and sharded ones are bound where they are used, so that they can be
    sharded and hooked on their own.
    """
    groups: defaultdict[Hashable, list[LipschitzMap]] = defaultdict(list)
    for g in dict.fromkeys(maps):
        key = None if g in known else g.binding_key()
        if key is not None:
            groups[type(g), key].append(g)
    graph = torch.is_grad_enabled()
    bound: dict[LipschitzMap, Held] = {}
    for equal in groups.values():
        made = equal[0].bind_group(equal)
        bound.update({g: Held(b, graph, g) for g, b in zip(equal, made, strict=True)})
    return bound
