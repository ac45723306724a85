"""The recipe for a map G with a Lipschitz constant below one."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from flow_solvers import BoundMap
from torch import Tensor, nn

from flow_core.bijection import Context

# What `bound_together` has bound, by map and grad mode.
BOUND: ContextVar[Mapping[tuple[int, bool], BoundMap]] = ContextVar("BOUND", default={})  # noqa: B039
# What `frozen` holds, by map: a copy of a map is another map and not held.
HELD: ContextVar[Mapping[int, BoundMap]] = ContextVar("HELD", default={})  # noqa: B039


class LipschitzMap(nn.Module, ABC):
    """Raw parameters of a map G; `bind` makes the map itself.

    `event_shape` is the shape of one sample, where the map takes only one.

    Effective weights are a value, never module state: a block binds once, uses that one object for
    solve, log-determinant and adjoint, and drops it, so nothing can go stale.
    """

    def __init__(self, event_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.event_shape = None if event_shape is None else torch.Size(event_shape)

    def require_input(self, x: Tensor, context: Context) -> None:
        """Refuse what G is not made for; on maps of another size its certificate does not hold.

        Raises:
            ValueError: If x is no batch of the event shape, where that is known, is not as precise
                as the weights, or the context has another number of samples.
        """
        if self.event_shape is not None and x.shape[1:] != self.event_shape:
            expected = ", ".join(str(n) for n in ("batch", *self.event_shape))
            raise ValueError(
                f"expected x of shape ({expected}), got {tuple(x.shape)}; reshape it, or make the "
                "map for that size"
            )
        weights = next((p.dtype for p in self.parameters()), x.dtype)
        if {x.dtype, weights} == {torch.float32, torch.float64}:
            raise ValueError(f"expected x of {weights}, as the weights, got {x.dtype}; convert it")
        if context is not None and context.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"expected a context for each of the {len(x)} samples, got one of shape "
                f"{tuple(context.shape)}"
            )

    @abstractmethod
    def bind_weights(self) -> BoundMap:
        """G without a context, from the raw parameters, in the current grad mode."""

    def binding_key(self) -> Hashable | None:
        """Equal for maps of one type that `bind_group` can bind together; None to stay alone."""
        return None

    def bind_group(self, maps: "Sequence[LipschitzMap]") -> Sequence[BoundMap]:
        """`bind_weights` of maps with the key of this one."""
        return [m.bind_weights() for m in maps]

    @abstractmethod
    def attach(self, bound: BoundMap, context: Context) -> BoundMap:
        """Add to a bound map what depends on the context, sample by sample.

        Raises:
            ValueError: If the map needs a context and none came, or the other way round.
        """

    @abstractmethod
    def certificate(self) -> float:
        """A proven upper bound of the Lipschitz constant of G with its present weights."""

    def bind(self, context: Context = None) -> BoundMap:
        """G with its effective weights and context fixed.

        Raises:
            RuntimeError: If the map is held by `frozen` and gradients are switched on.
        """
        held = HELD.get().get(id(self))
        if held is None:
            together = BOUND.get().get(binding(self))
            return self.attach(self.bind_weights() if together is None else together, context)
        if torch.is_grad_enabled():
            raise RuntimeError(
                "expected torch.no_grad() inside frozen(model): the held weights carry no "
                "gradient; leave frozen() to train"
            )
        return self.attach(held, context)


def binding(m: LipschitzMap) -> tuple[int, bool]:
    """What a bound map is valid for: a map, and a grad mode."""
    return id(m), torch.is_grad_enabled()


@contextmanager
def frozen(model: nn.Module) -> Generator[None]:
    """Hold the effective weights of every map for a long inference loop.

    Inside, maps refuse to be used with gradients, and changes of parameters are not seen. It holds
    for the thread that entered it; inside another `frozen`, the weights of the outer one stay.
    """
    outer = HELD.get()
    maps = [m for m in model.modules() if isinstance(m, LipschitzMap) and id(m) not in outer]
    HELD.set({**outer, **{id(m): _copy_of_bound(m) for m in maps}})
    try:
        yield
    finally:
        # Not what was held at the beginning: contexts of generators may end in any order.
        ours = {id(m) for m in maps}
        HELD.set({key: bound for key, bound in HELD.get().items() if key not in ours})


@torch.no_grad()
def _copy_of_bound(m: LipschitzMap) -> BoundMap:
    """The bound map with tensors of its own: some are the parameters themselves."""
    bound = m.bind_weights()
    return bound.with_tensors([t.clone() for t in bound.tensors()])
