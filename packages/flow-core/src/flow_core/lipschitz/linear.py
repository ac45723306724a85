"""A linear layer with a bounded spectral norm."""

from collections.abc import Hashable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flow_core.lipschitz.certify import matrix_norm_exact
from flow_core.lipschitz.layer import LipschitzLayer
from flow_core.lipschitz.operators import MatrixOperator
from flow_core.lipschitz.spectral import ExactSVD, SpectralMethod, require_positive


class LipschitzLinear(LipschitzLayer):
    """x -> W_eff x + b with W_eff = W / max(1, sigma / coeff) (Gouk et al. 2021).

    Raises:
        ValueError: A size is below 1, or `coeff` is not in (0, 1).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        coeff: float = 0.98,
        spectral: SpectralMethod | None = None,
        bias: bool = True,
        zero_init: bool = False,
    ) -> None:
        """`spectral` is `ExactSVD()` unless given; `zero_init` divides the weight by 1000."""
        require_positive("LipschitzLinear", in_features=in_features, out_features=out_features)
        super().__init__(
            (out_features, in_features),
            in_features,
            bias=bias,
            coeff=coeff,
            spectral=ExactSVD() if spectral is None else spectral,
            zero_init=zero_init,
        )
        self.in_features = in_features
        self.out_features = out_features

    def operator(self, weights: Float[Tensor, "batch rows columns"]) -> MatrixOperator:
        """The weights as matrices."""
        return MatrixOperator(weights)

    def batching_key(self) -> Hashable:
        """Layers of one shape, method, dtype and device are stacked."""
        weight = self.weight
        return type(self), weight.shape, self.spectral, weight.dtype, weight.device

    def certificate(self) -> float:
        """The spectral norm of the effective weight, rounded up."""
        with torch.no_grad():
            return matrix_norm_exact(self.effective()[0])

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """W_eff x + b."""
        weight, bias = self.effective()
        return functional.linear(x, weight, bias)

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Typed `forward`."""
        output: Tensor = super().__call__(x)
        return output

    def extra_repr(self) -> str:
        """Sizes and coefficient."""
        return f"{self.in_features}, {self.out_features}, coeff={self.coeff}, {self.spectral}"
