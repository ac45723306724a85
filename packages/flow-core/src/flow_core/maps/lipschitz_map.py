"""The recipe for a map G with a Lipschitz constant below one."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager

import torch
from flow_solvers import BoundMap
from torch import nn

from flow_core.bijection import Context


class LipschitzMap(nn.Module, ABC):
    """Raw parameters of a map G; `bind` makes the map itself.

    Effective weights are a value, never module state: a block binds once, uses that one object for
    solve, log-determinant and adjoint, and drops it, so nothing can go stale.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: BoundMap | None = None

    @abstractmethod
    def bind_weights(self) -> BoundMap:
        """G without a context, from the raw parameters, in the current grad mode."""

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
        if self._held is None:
            return self.attach(self.bind_weights(), context)
        if torch.is_grad_enabled():
            raise RuntimeError(
                "expected torch.no_grad() inside frozen(model): the held weights carry no "
                "gradient; leave frozen() to train"
            )
        return self.attach(self._held, context)

    @torch.no_grad()
    def hold(self) -> None:
        """Keep the effective weights of this moment until `release`, see `frozen`."""
        self._held = self.bind_weights()

    def release(self) -> None:
        """Bind anew from the raw parameters."""
        self._held = None


@contextmanager
def frozen(model: nn.Module) -> Generator[None]:
    """Hold the effective weights of every map for a long inference loop.

    Inside, maps refuse to be used with gradients, and changes of parameters are not seen.
    """
    maps = [m for m in model.modules() if isinstance(m, LipschitzMap)]
    try:
        for m in maps:
            m.hold()
        yield
    finally:
        for m in maps:
            m.release()
