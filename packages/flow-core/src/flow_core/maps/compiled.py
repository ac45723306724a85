"""The pure functions of a dense net, eager or compiled.

Compilation is chosen from outside and for stated batch sizes, so that what runs compiled follows
from the configuration alone; every other batch size runs eager.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from flow_core.maps.bound_activation import BoundActivation
from flow_core.maps.dense_functions import dense_value, dense_value_and_jacobian, effective

ResultT = TypeVar("ResultT", covariant=True)


@runtime_checkable
class Evaluation(Protocol[ResultT]):
    """A pure function of a point and of what a dense net is made of."""

    def __call__(
        self,
        w: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        features: Sequence[Tensor],
        activations: Sequence[BoundActivation],
    ) -> ResultT:
        """Evaluate at w."""
        ...


@dataclass(frozen=True)
class DenseFunctions:
    """How a dense net is evaluated."""

    value: Evaluation[Tensor]
    value_and_jacobian: Evaluation[tuple[Tensor, Tensor]]
    effective: Callable[
        [Sequence[Tensor], Sequence[Tensor], float, Tensor, float], tuple[Tensor, ...]
    ]


EAGER = DenseFunctions(dense_value, dense_value_and_jacobian, effective)


@cache
def compiled(batch_sizes: frozenset[int]) -> DenseFunctions:
    """Evaluation by Inductor for these batch sizes, eager for all others."""
    return DenseFunctions(
        value=_for_sizes(dense_value, batch_sizes),
        value_and_jacobian=_for_sizes(dense_value_and_jacobian, batch_sizes),
        effective=torch.compile(effective, fullgraph=True, dynamic=False),
    )


def _for_sizes(function: Evaluation[ResultT], batch_sizes: frozenset[int]) -> Evaluation[ResultT]:
    fused = torch.compile(function, fullgraph=True, dynamic=False)

    def evaluate(
        w: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        features: Sequence[Tensor],
        activations: Sequence[BoundActivation],
    ) -> ResultT:
        chosen = fused if w.shape[0] in batch_sizes else function
        return chosen(w, weights, biases, features, activations)

    return evaluate
