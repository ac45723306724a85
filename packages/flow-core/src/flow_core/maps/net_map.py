"""What maps that bind to plain nets share: a context, and compiled code."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from flow_solvers import BoundMap

from flow_core.context import Context
from flow_core.maps.bound_net import BoundNet
from flow_core.maps.conditioner import Conditioner
from flow_core.maps.lipschitz_map import LipschitzMap


class NetMap(LipschitzMap):
    """A map that binds to a `BoundNet`; a context shifts its pre-activations."""

    conditioner: Conditioner | None

    def take_context(
        self, features: int | None, widths: Sequence[int], map_size: tuple[int, int] | None
    ) -> None:
        """Make the conditioner of hidden layers of these widths, or none."""
        self.conditioner = None
        if features is not None:
            self.conditioner = Conditioner(type(self).__name__, features, widths, map_size)
            self.context_shape = self.conditioner.context_shape
        self.uses_context = self.conditioner is not None

    def attach(self, bound: BoundMap, context: Context) -> BoundMap:
        """Add the conditioner's features, if there is one."""
        if self.conditioner is None:
            return bound
        return replace(cast(BoundNet, bound), features=self.conditioner.features(context))

    def compiled(self, bound: BoundMap, batch_sizes: frozenset[int]) -> BoundMap:
        """The bound map, compiled for these batch sizes."""
        return replace(cast(BoundNet, bound), batch_sizes=batch_sizes)
