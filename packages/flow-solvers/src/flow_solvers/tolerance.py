"""When a sample counts as solved."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flow_solvers import samples
from flow_solvers.arguments import require_number

_DEFAULT_RTOL = {torch.float32: 1e-6, torch.float64: 1e-10}


def default_rtol(dtype: torch.dtype) -> float:
    """The relative tolerance that is used when none is given.

    Raises:
        ValueError: The dtype is not one that solves run in.
    """
    if dtype not in _DEFAULT_RTOL:
        raise ValueError(
            f"expected float32 or float64 for a solve, got {dtype}; convert the input first"
        )
    return _DEFAULT_RTOL[dtype]


def _check(name: str, value: object) -> None:
    if not 0.0 <= require_number(name, value) < math.inf:
        raise ValueError(f"expected {name} ≥ 0 and finite, got {value}")


@dataclass(frozen=True)
class Tolerance:
    """Sample b is solved when rms(r_b) ≤ rtol·(rms x_b + rms w_b + rms G(w_b)) + atol.

    The residual r = x - w - G(w) is the one at the value that is returned. Every sample keeps the
    tolerance; nothing is averaged over the batch.

    The residual is evaluated in the precision of x. In exact arithmetic it is within the tolerance
    with rtol + 5·eps in place of rtol, where G(w) is evaluated to within
    4·eps·(rms w + rms G(w)): within 1.6 times the default tolerance in float32, 1.00002 times in
    float64.

    Attributes:
        rtol: Relative tolerance; None stands for 1e-6 in float32 and 1e-10 in float64. It is never
            taken below four units in the last place of the dtype.
        atol: Absolute tolerance, in the units of x; at least the smallest normal number of the
            dtype, for which a residual of zero is enough.

    Raises:
        ValueError: A tolerance is negative, infinite or NaN.
        TypeError: It is no number.
    """

    rtol: float | None = None
    atol: float = 0.0

    def __post_init__(self) -> None:
        if self.rtol is not None:
            _check("rtol", self.rtol)
        _check("atol", self.atol)

    def relative(self, dtype: torch.dtype) -> float:
        """The relative tolerance in force for one dtype."""
        rtol = default_rtol(dtype) if self.rtol is None else self.rtol
        return max(rtol, 4 * torch.finfo(dtype).eps)

    def floor(self, like: Tensor) -> float:
        """The absolute tolerance of the norm of a sample, never zero.

        The smallest normal number lets an exact zero pass a strict comparison, and a strict
        comparison keeps out infinities and NaN.
        """
        return self.atol * math.sqrt(samples.flat(like).shape[1]) + torch.finfo(like.dtype).tiny


DEFAULT_TOLERANCE = Tolerance()


def require_same_shape(value: Tensor, w: Tensor) -> None:
    """Refuse a map that does not map a space to itself.

    Raises:
        ValueError: The shapes differ.
    """
    if value.shape != w.shape:
        raise ValueError(
            f"expected G(w) of the shape of w, {tuple(w.shape)}, got {tuple(value.shape)}; G must "
            f"map a space to itself"
        )
