"""Modules that prove a Lipschitz bound of themselves."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn


class Certified(nn.Module, ABC):
    """A module with a proven Lipschitz bound; reports and repairs find it by this base."""

    # As of a Bijection: no pass moves buffers.
    is_still: ClassVar[bool] = True

    @abstractmethod
    def certificate(self) -> float:
        """Proven upper bound of the l2 Lipschitz constant, with the present weights."""
