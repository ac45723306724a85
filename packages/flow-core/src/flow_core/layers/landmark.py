"""Places in a model where a pass shows what flows through."""

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.domain import Domain, LocalBounds
from flow_core.passes import Direction, Pass, zeros


@final
class Landmark(Bijection):
    """The identity, at a place of a model whose values heads on it want: see `Sightings`.

    Args:
        name: Of the place; each of a model has its own.
        shape: Shape of one x there.
    """

    def __init__(self, name: str, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.name = name
        self.shape = tuple(shape)

    def extra_repr(self) -> str:
        """Name and shape shown in the representation of a model."""
        return f"{self.name}, shape={self.shape}"

    def bounds(self) -> Bounds:
        """1: it is the identity."""
        return Bounds(1.0, 1.0)

    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """1, and the domain itself."""
        return LocalBounds(Bounds(1.0, 1.0), domain)

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        if how.collector is not None:
            how.collector.collect(self, x)
        return x, how.log_det(x, lambda: zeros(x))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return y, how.log_det(y, lambda: zeros(y))


class Sightings:
    """Collects what one pass in the direction of `transform` shows at landmarks, by their names."""

    def __init__(self) -> None:
        self._found: dict[str, Tensor] = {}

    def collect(self, layer: nn.Module, x: Tensor) -> None:
        """Take what flows through a landmark."""
        if isinstance(layer, Landmark):
            self._found[layer.name] = x

    def take(self) -> dict[str, Float[Tensor, " batch *shape"]]:
        """What was seen so far, which is not kept: a checkpoint keeps the pass and so this."""
        found, self._found = self._found, {}
        return found


def landmarks(model: nn.Module) -> list[Landmark]:
    """Those of a model in the order of its modules.

    Raises:
        ValueError: If two have one name.
    """
    found = [module for module in model.modules() if isinstance(module, Landmark)]
    names = [landmark.name for landmark in found]
    if len(set(names)) < len(names):
        raise ValueError(f"expected landmarks with a name of its own each, got {names}")
    return found
