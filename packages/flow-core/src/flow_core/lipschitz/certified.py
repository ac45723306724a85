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


class UncertifiedNet(nn.Sequential):
    """Lipschitz layers in a net that may have any constant, such as that of a coupling.

    Their norms are followed like all others; certificates and repairs, which are of maps that must
    be contractions, pass them by.
    """
