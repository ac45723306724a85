"""The distribution of the noise that makes real numbers of integers."""

from dataclasses import dataclass
from typing import Literal

from flow_apps.config.checks import require_counts


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How integers are dequantised, see `flow_core.Dequantized`.

    Attributes:
        kind: uniform; variational: a conditional flow, trained with the model (Ho et al. 2019).
        steps: Conditional couplings of the variational one.
        width: Channels inside its networks.
    """

    kind: Literal["uniform", "variational"] = "uniform"
    steps: int = 2
    width: int = 32

    def __post_init__(self) -> None:
        require_counts(self, "steps", most=1000)
        require_counts(self, "width", most=8192)
