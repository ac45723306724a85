"""Distributions of the noise that makes real numbers of integers."""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from flow_core.settings import Settings


class Dequantizer(nn.Module, ABC):
    """A distribution q(u | x) of the noise u in [0, 1) that is added to integers x.

    A kind gives `_draw`, and `initialize` where it has data-dependent parameters. Whoever gives
    uniform numbers has a say in what is drawn: a sample then gets the same noise whichever process
    computes it, and however many others are with it.
    """

    _like: Tensor

    def __init__(self) -> None:
        super().__init__()
        # A buffer follows `.to`, so the noise comes in the dtype of the model.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    @abstractmethod
    def _draw(self, x: Tensor, noise: Tensor, using: Settings | None) -> tuple[Tensor, Tensor]:
        """Make u of uniform numbers of the shape of x, with log q(u | x) in nats per sample."""

    @final
    def rsample_and_log_prob(
        self,
        x: Integer[Tensor, " batch *event"],
        noise: Float[Tensor, "*noise"] | None = None,
        *,
        using: Settings | None = None,
    ) -> tuple[Float[Tensor, " batch *event"], Float[Tensor, " batch"]]:
        """Draw u and give log q(u | x) in nats per sample, with gradients.

        Args:
            x: Integers.
            noise: Independent uniform numbers in [0, 1), of the shape of x, that the draw is made
                of; None takes them from the default generator of the model's device.
            using: What a noise model does its work with.

        Raises:
            ValueError: If the noise is not of the shape of x, or the kind is not made for such x.
        """
        return self._draw(x, self._uniform(x, noise), using)

    def initialize(
        self,
        x: Integer[Tensor, " batch *event"],
        noise: Float[Tensor, "*noise"] | None = None,
        *,
        using: Settings | None = None,
    ) -> None:
        """Set data-dependent parameters from a batch, once; here there are none.

        Args:
            x: Integers.
            noise: As of `rsample_and_log_prob`.
            using: What a noise model does its work with.
        """
        del x, noise, using

    def _uniform(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Numbers in [0, 1) in the dtype of the model, where the integers are."""
        dtype = self._like.dtype
        if noise is None:
            return torch.rand(x.shape, dtype=dtype, device=x.device)
        if noise.shape != x.shape or not noise.is_floating_point():
            raise ValueError(
                f"{type(self).__name__}: expected a uniform number in [0, 1) for each of the "
                f"integers of shape {tuple(x.shape)}, got {noise.dtype} of shape "
                f"{tuple(noise.shape)}; draw them by torch.rand, or leave noise out"
            )
        # A number close to 1 may be 1 in a smaller precision.
        return noise.to(x.device, dtype).clamp(max=1 - torch.finfo(dtype).eps / 2)


@final
class UniformDequantizer(Dequantizer):
    """u ~ U[0, 1) for every value, so log q = 0. Source: Theis et al. 2016, §3.1."""

    def _draw(self, x: Tensor, noise: Tensor, using: Settings | None) -> tuple[Tensor, Tensor]:
        """The uniform numbers themselves, and zeros."""
        del x, using
        return noise, noise.new_zeros(noise.shape[0])
