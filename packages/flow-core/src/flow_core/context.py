"""What a bijection may depend on beside its input."""

from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

Context: TypeAlias = Float[Tensor, " batch *context"] | None
"""Numbers of every sample, the batch first."""
