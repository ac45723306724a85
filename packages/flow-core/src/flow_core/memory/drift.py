"""How far an input that was computed by inversion is from the one that there was."""

import warnings
from dataclasses import dataclass
from math import prod, sqrt

import torch
from flow_solvers.precision import widen
from jaxtyping import Float
from torch import Tensor

from flow_core.memory.policies import Reversible

_SIGNS = 8


class DriftError(RuntimeError):
    """An input that was computed by inversion is not the one of the forward pass."""


class DriftWarning(UserWarning):
    """The same, where gradients are wanted all the same."""


@dataclass(frozen=True)
class Fingerprint:
    """A few numbers of every sample, which tell how far another tensor is from it.

    Attributes:
        sketch: Products with random signs r, over the root of their number, so that the squared
            norm of a difference is that of the samples in the mean.
    """

    sketch: Float[Tensor, " batch signs"]

    @classmethod
    def of(cls, x: Float[Tensor, " batch *shape"]) -> "Fingerprint":
        """That of a batch."""
        flat = widen(x.detach()).reshape(len(x), prod(x.shape[1:]))
        return cls(flat @ _signs(flat.shape[1], flat))

    def distances(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """About ‖x' − x‖/‖x‖ for another batch x', NaN where that is not finite."""
        norms: Tensor = torch.linalg.vector_norm(self.sketch, dim=1)
        # A sample that is not finite has no say in the scale of the others.
        finite = torch.isfinite(norms)
        mean = torch.where(finite, norms, 0).sum() / finite.sum().clamp(min=1)
        scales = torch.where(finite, norms.maximum(mean), mean)
        found: Tensor = torch.linalg.vector_norm(Fingerprint.of(x).sketch - self.sketch, dim=1)
        return found / torch.where(scales > 0, scales, torch.ones_like(scales))


def agrees(
    fingerprint: Fingerprint, x: Float[Tensor, " batch *shape"], path: str, policy: Reversible
) -> bool:
    """Whether x is what the fingerprint was taken of; raises or warns, by the policy, if not.

    Raises:
        DriftError: With the path of the layer, the error and how many samples it concerns.
    """
    assert policy.tolerance is not None
    distances = fingerprint.distances(x)
    far = ~(distances <= policy.tolerance)
    if not bool(far.any()):
        return True
    text = _refusal(distances, int(far.sum()), path, policy.tolerance)
    if policy.on_drift == "raise":
        raise DriftError(text)
    warnings.warn(text, DriftWarning, stacklevel=2)
    return False


def _refusal(distances: Tensor, far: int, path: str, tolerance: float) -> str:
    finite = distances[torch.isfinite(distances)]
    broken = len(distances) - len(finite)
    worst = f"{float(finite.max()):.2g}" if len(finite) else "none that is finite"
    return (
        f"expected the inverse of {path} to give back its input within a relative error of "
        f"{tolerance:g}, got {worst}: {far} of {len(distances)} samples are beyond it, and of "
        f"these {broken} not finite; bound its scale, solve to a smaller tolerance, compute in "
        "float64, or keep inputs: memory=Checkpointed()"
    )


def _signs(size: int, like: Tensor) -> Tensor:
    """The same ones every time, whatever the device."""
    generator = torch.Generator().manual_seed(size)
    signs = torch.randint(0, 2, (size, _SIGNS), generator=generator, dtype=torch.int8) * 2 - 1
    return signs.to(like.device, like.dtype) / sqrt(_SIGNS)
