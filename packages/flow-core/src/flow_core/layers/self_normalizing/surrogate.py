"""Training on gradients that need no determinant, under a name of their own."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Context
from flow_core.convolution import same_conv2d
from flow_core.dequantization import Dequantized
from flow_core.distributions import Flow

Kernel = Float[Tensor, "channels channels size size"]
Images = Float[Tensor, "batch channels height width"]
Reconstruction: TypeAlias = Literal["plain", "inverse_only", "symmetric"]
ReconstructionError: TypeAlias = Callable[[Images, Kernel, Kernel], Float[Tensor, ""]]


def plain_error(x: Images, weight: Kernel, inverse: Kernel) -> Float[Tensor, ""]:
    """Mean over the batch of |x − R∗W∗x|²."""
    return _mean_square(x - same_conv2d(same_conv2d(x, weight), inverse))


def inverse_only_error(x: Images, weight: Kernel, inverse: Kernel) -> Float[Tensor, ""]:
    """As `plain_error`, but only R learns from it."""
    return plain_error(x, weight.detach(), inverse)


def symmetric_error(x: Images, weight: Kernel, inverse: Kernel) -> Float[Tensor, ""]:
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
class Collector:
    """What self-normalizing layers leave during a pass of a `TrainingSurrogate`."""

    error: ReconstructionError
    errors: list[Tensor] = field(default_factory=list[Tensor])

    def collect(self, x: Tensor, weight: Tensor, inverse: Tensor) -> None:
        """The error of a layer at its input, without a gradient to the layers before."""
        self.errors.append(self.error(x.detach(), weight, inverse))


COLLECTOR: ContextVar[Collector | None] = ContextVar("flow_core.self_normalizing", default=None)
APPROXIMATE: ContextVar[bool] = ContextVar("flow_core.approximate_inverses", default=False)


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

        def __call__(self, x: Tensor, context: Tensor | None = None) -> SurrogateTerms:
            """Same as `forward`."""
            ...

    def __init__(self, model: Flow | Dequantized, reconstruction: Reconstruction = "plain") -> None:
        super().__init__()
        self.layers = sum(isinstance(m, SelfNormalizing) for m in model.modules())
        if not self.layers:
            raise ValueError(
                "expected a model with self-normalizing layers, got none: train it on log_prob"
            )
        if reconstruction not in _ERRORS:
            names = ", ".join(_ERRORS)
            raise ValueError(f"expected reconstruction of {names}, got {reconstruction!r}")
        self.model = model
        self.reconstruction: Reconstruction = reconstruction

    def forward(self, x: Tensor, context: Context = None) -> SurrogateTerms:
        """The surrogate of every sample of a batch, and the reconstruction errors of the layers."""
        collector = Collector(_ERRORS[self.reconstruction])
        token = COLLECTOR.set(collector)
        try:
            surrogate = self.model(x, context)
        finally:
            COLLECTOR.reset(token)
        if len(collector.errors) != self.layers:
            raise RuntimeError(
                f"expected each of {self.layers} self-normalizing layers to be used once, in its "
                f"own direction, got {len(collector.errors)} uses; take them out of Invert"
            )
        return SurrogateTerms(surrogate, torch.stack(collector.errors))


class SelfNormalizing:
    """Marks the layers that know what to do inside a `TrainingSurrogate`."""


@contextmanager
def approximate_inverses() -> Generator[None]:
    """Let self-normalizing layers use R in place of W⁻¹ inside: quick, and only nearly right.

    Samples then come with the density that they are drawn from, which is not quite `log_prob`.
    """
    token = APPROXIMATE.set(True)
    try:
        yield
    finally:
        APPROXIMATE.reset(token)


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().sum() / max(len(difference), 1)
