"""A zero-padded convolution with a bounded spectral norm."""

from collections.abc import Hashable

import torch
from jaxtyping import Float
from torch import Tensor

from flow_core.convolution import same_conv2d
from flow_core.lipschitz.certify import conv_certificate
from flow_core.lipschitz.layer import LipschitzLayer
from flow_core.lipschitz.operators import ConvOperator, MatrixOperator
from flow_core.lipschitz.spectral import ExactSVD, GolubKahan, SpectralMethod, require_positive


class LipschitzConv2d(LipschitzLayer):
    """Convolution of stride 1 with zero padding, norm <= coeff on maps of the given size.

    The singular vectors are full feature maps (the norm of the zero-padded operator, Gouk et al.
    2021), so the size of the maps is part of the layer. A 1x1 kernel is treated as a matrix.

    Raises:
        ValueError: A size is below 1, the kernel size is even, `coeff` is not in (0, 1), or
            `ExactSVD` is asked for a kernel that is no matrix.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        map_size: tuple[int, int],
        *,
        coeff: float = 0.98,
        spectral: SpectralMethod | None = None,
        bias: bool = True,
        zero_init: bool = False,
    ) -> None:
        """`spectral` is `ExactSVD()` for 1x1 kernels, else `GolubKahan()`, unless given."""
        height, width = map_size
        require_positive(
            "LipschitzConv2d",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            height=height,
            width=width,
        )
        if kernel_size % 2 == 0:
            raise ValueError(f"LipschitzConv2d: expected an odd kernel_size, got {kernel_size}")
        self.map_size = (height, width)
        positions = 1 if kernel_size == 1 else height * width
        default = ExactSVD() if kernel_size == 1 else GolubKahan()
        super().__init__(
            (out_channels, in_channels, kernel_size, kernel_size),
            in_channels * positions,
            bias=bias,
            coeff=coeff,
            spectral=default if spectral is None else spectral,
            zero_init=zero_init,
        )

    @property
    def is_matrix(self) -> bool:
        """Whether the kernel is 1x1, so that the map does not matter."""
        return self.weight.shape[-1] == 1

    def operator(
        self, weights: Float[Tensor, "batch outputs inputs size size"]
    ) -> MatrixOperator | ConvOperator:
        """1x1 kernels as matrices, or the one convolution."""
        if self.is_matrix:
            return MatrixOperator(weights.flatten(2))
        return ConvOperator(weights[0], self.map_size)

    def batching_key(self) -> Hashable:
        """1x1 kernels are stacked; other convolutions stand alone."""
        weight = self.weight
        alone = None if self.is_matrix else id(self)
        return type(self), weight.shape, self.spectral, weight.dtype, weight.device, alone

    def certificate(self) -> float:
        """Upper bound of the norm of the effective operator on maps of `map_size`."""
        with torch.no_grad():
            return conv_certificate(self.effective()[0], self.map_size)

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """The convolution with the effective weight.

        Raises:
            ValueError: The maps have another size than the layer was built for.
        """
        if not self.is_matrix and tuple(x.shape[-2:]) != self.map_size:
            raise ValueError(
                f"LipschitzConv2d: expected maps of {self.map_size}, got {tuple(x.shape[-2:])}; "
                "the norm depends on the size: build the layer with the right map_size"
            )
        weight, bias = self.effective()
        return same_conv2d(x, weight, bias)

    def __call__(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs height width"]:
        """Typed `forward`."""
        output: Tensor = super().__call__(x)
        return output

    def extra_repr(self) -> str:
        """Sizes and coefficient."""
        outputs, inputs, size, _ = self.weight.shape
        return f"{inputs}, {outputs}, {size}, {self.map_size}, coeff={self.coeff}, {self.spectral}"
