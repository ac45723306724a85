"""What the layers that only move values have in common."""

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.domain import Domain, LocalBounds
from flow_core.passes import Direction, Pass, zeros


class Rearrangement(Bijection):
    """A bijection whose outputs are its inputs in other places: every log-determinant is 0."""

    @abstractmethod
    def _moved(self, x: Tensor) -> Tensor:
        """The values of x in their new places."""

    @abstractmethod
    def _moved_back(self, y: Tensor) -> Tensor:
        """The values of y back where they came from."""

    @final
    def bounds(self) -> Bounds:
        """1: distances stay."""
        return Bounds(1.0, 1.0)

    @final
    def bounds_on(self, domain: Domain, direction: Direction = "transform") -> LocalBounds:
        """The same values in another shape."""
        zeros = torch.zeros(1, *domain.shape)
        found = self._moved(zeros) if direction == "transform" else self._moved_back(zeros)
        return LocalBounds(Bounds(1.0, 1.0), domain.part(tuple(found.shape[1:])))

    @final
    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._moved(x), how.log_det(x, lambda: zeros(x))

    @final
    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._moved_back(y), how.log_det(y, lambda: zeros(y))
