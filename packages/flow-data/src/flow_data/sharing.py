"""The part of a batch that one of several processes reads."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Shaped
from torch import Tensor


@final
@dataclass(frozen=True)
class Share:
    """Every `count`-th sample of a batch, from sample `index` on.

    What is drawn for a batch is drawn for the whole of it and then shared, so that a sample does
    not depend on how many processes there are.

    Attributes:
        index: Number of the share, from 0.
        count: Number of shares, of equal size.

    Raises:
        ValueError: If there is no such share.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"expected a share from 0 to {self.count - 1}, got {self.index}")

    def of(self, whole: Shaped[Tensor, " batch *sample"]) -> Shaped[Tensor, " share *sample"]:
        """The samples of this share, in order."""
        return whole[self.index :: self.count]


WHOLE = Share()
"""All samples."""
