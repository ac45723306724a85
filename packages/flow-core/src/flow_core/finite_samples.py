"""What becomes of samples of a flow that are not finite."""

from itertools import count
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from flow_core.base import BaseDistribution
from flow_core.bijection import Bijection
from flow_core.breakage import Breakage, LayerWatch, SampleError, is_whole
from flow_core.passes import Pass
from flow_core.record import open_reports

OnBroken: TypeAlias = Literal["return", "raise", "redraw"]

# Of a flow that has a tenth of its mass, one sample in 40,000 is broken in all of them.
_ROUNDS = 100


def inverted(
    base: BaseDistribution, bijection: Bijection, z: Tensor, how: Pass, on_failure: OnBroken
) -> Float[Tensor, " batch *event"]:
    """The inverse of z, and what is asked for where it is not finite; without a graph.

    Raises:
        SampleError: See `Flow.sample`.
    """
    x, _ = bijection(z, how=how)
    # Looking stops the device.
    if on_failure == "return" and (torch.compiler.is_compiling() or not open_reports()):
        return x
    for redrawn in count():
        broken = (~is_whole(x)).nonzero()[:, 0]
        if not len(broken):
            break
        those = how.given(None if how.context is None else how.context[broken])
        breakage = _breakage(bijection, z[broken], those)
        if on_failure == "return":
            break
        if on_failure == "raise" or redrawn == _ROUNDS:
            raise SampleError(_refusal(breakage, len(x), redrawn))
        z = z.index_copy(0, broken, base.rsample(len(broken)))
        x = x.index_copy(0, broken, bijection(z[broken], how=those)[0])
    return x


def _breakage(bijection: Bijection, z: Tensor, how: Pass) -> Breakage:
    """Which layers break samples, told to open reports: they are computed once more."""
    watch = LayerWatch(bijection, len(z))
    watch.note("the base distribution", torch.zeros_like(z), z)
    bijection(z, how=how._replace(watch=watch))
    for report in open_reports():
        report.breakage.add(watch.breakage)
    return watch.breakage


def _refusal(breakage: Breakage, samples: int, redrawn: int) -> str:
    reasons = str(breakage) or "no layer, when they are computed again by themselves"
    what = f", drawn again {redrawn} times," if redrawn else ""
    return (
        f"expected samples that are finite, got {breakage.samples} of {samples} that are not{what} "
        f"because of {reasons}; bound the scales of these layers, sample at a lower temperature, "
        'or let on_failure="redraw" draw them again'
    )
