"""Binding all maps of a model together: one set of operations for those of one shape."""

from collections import defaultdict
from collections.abc import Generator, Hashable
from contextlib import contextmanager

from torch import nn

from flow_core.maps.lipschitz_map import BOUND, HELD, LipschitzMap, binding


@contextmanager
def bound_together(model: nn.Module) -> Generator[None]:
    """Bind the small maps of `model` now, for all evaluations inside.

    Small ones are those whose `binding_key` is not None: they spend their time in launching
    operations. Larger ones are bound where they are used, so that they can be checkpointed, sharded
    and hooked on their own.

    For one pass through a model, whose parameters do not change on the way: what is bound lives as
    long as the context and belongs to it, not to the modules. Contexts nest; inner ones bind only
    what outer ones have not. A part of `model` that is checkpointed on its own would bind a second
    time when it is recomputed, which torch refuses: checkpoint the model as a whole.
    """
    outer = BOUND.get()
    groups: defaultdict[Hashable, list[LipschitzMap]] = defaultdict(list)
    for module in model.modules():
        if isinstance(module, LipschitzMap) and not _bound_already(module):
            key = module.binding_key()
            if key is not None:
                groups[type(module), key].append(module)
    inner = dict(outer)
    for maps in groups.values():
        bounds = maps[0].bind_group(maps)
        inner.update(zip(map(binding, maps), bounds, strict=True))
    token = BOUND.set(inner)
    try:
        yield
    finally:
        BOUND.reset(token)


def _bound_already(m: LipschitzMap) -> bool:
    return id(m) in HELD.get() or binding(m) in BOUND.get()
