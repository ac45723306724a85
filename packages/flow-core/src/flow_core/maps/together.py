"""Binding all maps of a model together: one set of operations for those of one shape."""

from collections import defaultdict
from collections.abc import Generator, Hashable
from contextlib import contextmanager

from torch import nn

from flow_core.maps.lipschitz_map import BOUND, LipschitzMap, binding


@contextmanager
def bound_together(model: nn.Module) -> Generator[None]:
    """Bind every map of `model` now, for all evaluations inside.

    For one pass through a model, whose parameters do not change on the way: what is bound lives as
    long as the context and belongs to it, not to the modules. Contexts nest; inner ones bind only
    what outer ones have not.
    """
    outer = BOUND.get()
    groups: defaultdict[Hashable, list[LipschitzMap]] = defaultdict(list)
    for module in model.modules():
        if isinstance(module, LipschitzMap) and not (module.held or binding(module) in outer):
            groups[type(module), module.binding_key()].append(module)
    inner = dict(outer)
    for maps in groups.values():
        bounds = maps[0].bind_group(maps)
        inner.update(zip(map(binding, maps), bounds, strict=True))
    token = BOUND.set(inner)
    try:
        yield
    finally:
        BOUND.reset(token)
