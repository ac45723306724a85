"""Training on gradients that need no determinant, under a name of their own."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.context import Context
from flow_core.convolution import same_conv2d
from flow_core.dequantization import Dequantized
from flow_core.distributions import Flow
from flow_core.layers.self_normalizing.layers import SelfNormConv2d
from flow_core.passes import Pass
from flow_core.settings import DEFAULT_SETTINGS, Settings

SquareKernel = Float[Tensor, "channels channels size size"]
ImageBatch = Float[Tensor, "batch channels height width"]
Reconstruction: TypeAlias = Literal["plain", "inverse_only", "symmetric"]
ReconstructionError: TypeAlias = Callable[
    [ImageBatch, SquareKernel, SquareKernel], Float[Tensor, ""]
]


def plain_error(x: ImageBatch, weight: SquareKernel, inverse: SquareKernel) -> Float[Tensor, ""]:
    """Mean over the batch of |x − R∗W∗x|²."""
    return _mean_square(x - same_conv2d(same_conv2d(x, weight), inverse))


def inverse_only_error(
    x: ImageBatch, weight: SquareKernel, inverse: SquareKernel
) -> Float[Tensor, ""]:
    """As `plain_error`, but only R learns from it."""
    return plain_error(x, weight.detach(), inverse)


def symmetric_error(
    x: ImageBatch, weight: SquareKernel, inverse: SquareKernel
) -> Float[Tensor, ""]:
    """Half of |x − R∗W∗x|² and half of |z − W∗R∗z|² at z = W∗x."""
    z = same_conv2d(x, weight)
    forth = same_conv2d(z, inverse)
    back = same_conv2d(forth, weight)
    return 0.5 * (_mean_square(x - forth) + _mean_square(z.detach() - back))


_ERRORS: dict[Reconstruction, ReconstructionError] = {
    "plain": plain_error,
    "inverse_only": inverse_only_error,
    "symmetric": symmetric_error,
}


@dataclass
class ReconstructionErrors:
    """Collects the errors of the layers that one pass goes through, in the order of their use.

    A segment that a backward pass computes again collects again, and what it adds is not read: it
    must do all that it did before, or a checkpoint misses tensors.
    """

    error: ReconstructionError
    found: list[tuple[nn.Module, Tensor]] = field(default_factory=list[tuple[nn.Module, Tensor]])

    def collect(self, layer: nn.Module, x: Tensor) -> None:
        """The error of a layer at its input, without a gradient to the layers before."""
        if isinstance(layer, SelfNormConv2d):
            error = self.error(x.detach(), layer.weight, layer.inverse_weight)
            self.found.append((layer, error))

    def take(self) -> list[tuple[nn.Module, Tensor]]:
        """Layers and errors so far, which are not kept.

        A checkpoint keeps the pass and so the collector: holding the errors it would hold itself.
        """
        found, self.found = self.found, []
        return found


class SurrogateTerms(NamedTuple):
    """What a self-normalizing model is trained on.

    Attributes:
        surrogate: Per sample, in nats, but no log-likelihood: without the log-determinants of the
            self-normalizing layers. Only its gradient is meant to be that of a log-likelihood.
        reconstruction: Per self-normalizing layer, the mean over the batch of the squared error of
            its approximate inverse.
    """

    surrogate: Float[Tensor, " batch"]
    reconstruction: Float[Tensor, " layers"]


@final
class TrainingSurrogate(nn.Module):
    """A flow with self-normalizing layers, as it is trained: not on its log-likelihood.

    `model` keeps its exact `log_prob`; calling this gives the surrogate. Half of a layer's gradient
    goes to W, with Rᵀ in place of W⁻ᵀ, and half to R. Source: Keller et al. 2021, §3.

    Args:
        model: What is trained.
        reconstruction: Which error of the approximate inverses is reported, for a loss that keeps
            them close: that of x, the same with a gradient to R alone, or of x and z.

    Raises:
        ValueError: If the model has no self-normalizing layer: train it on `log_prob`. If there is
            no such error.
        RuntimeError: If a pass does not use every such layer once, in its own direction.
    """

    if TYPE_CHECKING:

        def __call__(
            self,
            x: Tensor,
            context: Tensor | None = None,
            *,
            noise: Tensor | None = None,
            using: Settings | None = None,
        ) -> SurrogateTerms:
            """Same as `forward`."""
            ...

    def __init__(self, model: Flow | Dequantized, reconstruction: Reconstruction = "plain") -> None:
        super().__init__()
        self.layers = sum(isinstance(m, SelfNormConv2d) for m in model.modules())
        if not self.layers:
            raise ValueError(
                "expected a model with self-normalizing layers, got none: train it on log_prob"
            )
        if reconstruction not in _ERRORS:
            names = ", ".join(_ERRORS)
            raise ValueError(f"expected reconstruction of {names}, got {reconstruction!r}")
        self.model = model
        self.reconstruction: Reconstruction = reconstruction

    def forward(
        self,
        x: Tensor,
        context: Context = None,
        *,
        noise: Tensor | None = None,
        using: Settings | None = None,
    ) -> SurrogateTerms:
        """The surrogate of every sample of a batch, and the reconstruction errors of the layers.

        Args:
            x: What the model is called with.
            context: First dimension the batch.
            noise: Of a `Dequantized` model, as it takes it.
            using: What the other layers do their work with; its mode is not looked at.
        """
        errors = ReconstructionErrors(_ERRORS[self.reconstruction])
        settings = replace(DEFAULT_SETTINGS if using is None else using, mode="surrogate")
        surrogate = self._surrogate(x, noise, Pass(settings, context, collector=errors))
        found = errors.take()
        if surrogate.requires_grad and not all(error.requires_grad for _, error in found):
            raise RuntimeError(
                "expected reconstruction errors with a graph, got some without: a part of the "
                "model ran under no_grad, as reentrant checkpoints do; pass use_reentrant=False"
            )
        self._require_one_use_each([layer for layer, _ in found])
        return SurrogateTerms(surrogate, torch.stack([error for _, error in found]))

    def _surrogate(self, x: Tensor, noise: Tensor | None, how: Pass) -> Tensor:
        if noise is None:
            return self.model(x, how=how)
        if not isinstance(self.model, Dequantized):
            raise TypeError("noise: expected None, a Flow of real numbers takes none")
        return self.model(x, noise=noise, how=how)

    def _require_one_use_each(self, used: list[nn.Module]) -> None:
        if not len(used) == len(set(used)) == self.layers:
            raise RuntimeError(
                f"expected each of {self.layers} self-normalizing layers to be used once, in its "
                f"own direction, got {len(used)} uses of {len(set(used))} layers; take them out "
                "of Invert"
            )


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().sum() / max(len(difference), 1)
