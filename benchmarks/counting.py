"""Maps and linearizations that count what a solver asks of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from flow_solvers import BoundMap, Index, Linearization
from torch import Tensor


@dataclass
class Count:
    """Evaluations or products.

    Attributes:
        calls: Batched calls: the sequential depth.
        rows: Samples in all calls together: the work, where a solver drops solved samples.
    """

    calls: int = 0
    rows: int = 0

    def add(self, rows: int, calls: int = 1) -> None:
        """Count calls."""
        self.calls += calls
        self.rows += rows


@dataclass(frozen=True)
class CountedMap:
    """A bound map; an evaluation with or without derivatives counts once."""

    bound: BoundMap
    count: Count = field(default_factory=Count)

    def __call__(self, w: Tensor) -> Tensor:
        """G(w)."""
        self.count.add(len(w))
        return self.bound(w)

    def linearize(self, w: Tensor) -> Linearization:
        """G(w) and products with J, which are not counted."""
        self.count.add(len(w))
        return self.bound.linearize(w)

    def select(self, index: Index) -> "CountedMap":
        """The map for a subset of the batch."""
        return CountedMap(self.bound.select(index), self.count)

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of the map."""
        return self.bound.tensors()

    def with_tensors(self, tensors: Sequence[Tensor]) -> "CountedMap":
        """The same map with other tensors."""
        return CountedMap(self.bound.with_tensors(tensors), self.count)

    def __neg__(self) -> "CountedMap":
        """The map -G."""
        return CountedMap(-self.bound, self.count)


@dataclass(frozen=True)
class CountedLinearization:
    """A linearization whose products are counted."""

    inner: Linearization
    count: Count = field(default_factory=Count)

    @property
    def bound(self) -> BoundMap:
        """The map."""
        return self.inner.bound

    @property
    def point(self) -> Tensor:
        """The point."""
        return self.inner.point

    @property
    def value(self) -> Tensor:
        """G(point)."""
        return self.inner.value

    def jvp(self, tangent: Tensor) -> Tensor:
        """J t."""
        self.count.add(len(self.point))
        return self.inner.jvp(tangent)

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Jᵀ g."""
        self.count.add(len(self.point))
        return self.inner.vjp(cotangent)

    def jacobian(self) -> Tensor:
        """J; a product per dimension."""
        dim = self.point[0].numel()
        self.count.add(dim * len(self.point), calls=dim)
        return self.inner.jacobian()

    def select(self, index: Index) -> "CountedLinearization":
        """The same linearization for a subset of the batch."""
        return CountedLinearization(self.inner.select(index), self.count)
