"""What maps that bind to plain nets share: a context, and compiled code."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from flow_solvers import BoundMap

from flow_core.context import Context
from flow_core.maps.bound_net import BoundNet
from flow_core.maps.conditioner import Conditioner, LinearConditioner
from flow_core.maps.lipschitz_map import LipschitzMap


class NetMap(LipschitzMap):
    """A map that binds to a `BoundNet`; a context shifts its pre-activations."""

    conditioner: Conditioner | None

    def take_context(
        self, features: int | None, widths: Sequence[int], map_size: tuple[int, int] | None
    ) -> None:
        """Make the conditioner of hidden layers of these widths, or none."""
        self.conditioner, self.uses_context = None, False
        if features is not None:
            self.condition(LinearConditioner(type(self).__name__, features, widths, map_size))

    def condition(self, conditioner: Conditioner) -> None:
        """Let a context shift what the layers compute.

        Raises:
            ValueError: If the map has a conditioner already.
        """
        if self.conditioner is not None:
            raise ValueError("expected context_features or a conditioner, got both")
        self.conditioner = conditioner
        self.context_shape = conditioner.context_shape
        self.uses_context = True

    def attach(self, bound: BoundMap, context: Context) -> BoundMap:
        """Add the conditioner's features, if there is one."""
        if self.conditioner is None:
            return bound
        net = cast(BoundNet, bound)
        return replace(net, features=self.conditioner.features(net, context))

    def compiled(self, bound: BoundMap, batch_sizes: frozenset[int]) -> BoundMap:
        """The bound map, compiled for these batch sizes."""
        return replace(cast(BoundNet, bound), batch_sizes=batch_sizes)
