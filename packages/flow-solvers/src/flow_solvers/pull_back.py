"""First derivatives of a bound map and of its Jacobian, without a graph."""

from collections.abc import Sequence
from typing import TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers.maps import BoundMap

Cotangents: TypeAlias = tuple[Tensor | None, Tensor | None]
"""What the value and the Jacobian are pulled back along."""


def pull_back(
    bound: BoundMap,
    w: Float[Tensor, " batch *shape"],
    along_value: Float[Tensor, " batch *shape"] | None,
    along_jacobian: Float[Tensor, " batch dim dim"] | None,
) -> tuple[Float[Tensor, " batch *shape"], tuple[Tensor, ...]]:
    """Gradients of ⟨G(w), along_value⟩ + ⟨J(w), along_jacobian⟩ by w and by the tensors of G.

    Works in code that is being compiled too. Where only the value is pulled back it costs one
    evaluation, else one linearization with its Jacobian.

    Args:
        bound: G.
        w: The point.
        along_value: None leaves the value out.
        along_jacobian: None leaves the Jacobian out.

    Returns:
        The gradient by w, and those by `bound.tensors()` in their order; nothing has a graph.
    """
    wanted = [True, *(True for _ in bound.tensors())]
    by_w, *by_tensors = pull_back_to(bound, w, (along_value, along_jacobian), wanted)
    assert by_w is not None
    return by_w, tuple(g for g in by_tensors if g is not None)


def pull_back_to(
    bound: BoundMap,
    w: Float[Tensor, " batch *shape"],
    along: Cotangents,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """`pull_back` to some of (w, *bound.tensors()) only, as one list with None elsewhere."""
    # Dynamo traces transforms, and not autograd; without it autograd is the faster one.
    pull = _by_transform if torch.compiler.is_compiling() else _by_autograd
    return pull(bound, w, along, wanted)


def _by_transform(
    bound: BoundMap, w: Tensor, along: Cotangents, wanted: Sequence[bool]
) -> list[Tensor | None]:
    def evaluate(w: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return _outputs(bound.with_tensors(tensors), w, along)

    pull = torch.func.vjp(evaluate, w, *bound.tensors())[1]
    found = cast("tuple[Tensor, ...]", pull(_given(along)))
    return [g if n else None for g, n in zip(found, wanted, strict=True)]


def _by_autograd(
    bound: BoundMap, w: Tensor, along: Cotangents, wanted: Sequence[bool]
) -> list[Tensor | None]:
    leaves = leaves_of((w, *bound.tensors()), wanted)
    with torch.enable_grad():
        outputs = _outputs(bound.with_tensors(leaves[1:]), leaves[0], along)
    with torch.no_grad():
        return gradients(outputs, leaves, wanted, _given(along))


def leaves_of(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    """The tensors as the beginnings of a graph, as far as their gradients are wanted."""
    return [t.detach().requires_grad_(n) for t, n in zip(tensors, wanted, strict=True)]


def added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The sum of two gradients, of which None is zero."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _outputs(bound: BoundMap, w: Tensor, along: Cotangents) -> tuple[Tensor, ...]:
    along_value, along_jacobian = along
    if along_jacobian is None:
        return () if along_value is None else (bound(w),)
    at = bound.linearize(w)
    return (at.jacobian(),) if along_value is None else (at.value, at.jacobian())


def _given(along: Cotangents) -> tuple[Tensor, ...]:
    return tuple(cotangent for cotangent in along if cotangent is not None)


def gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    wanted: Sequence[bool],
    along: Sequence[Tensor],
) -> list[Tensor | None]:
    """Gradients by the inputs that are wanted; zero where no output depends on them.

    They have a graph where gradients are on.
    """
    chosen = [t for t, n in zip(inputs, wanted, strict=True) if n]
    pairs = [(o, a) for o, a in zip(outputs, along, strict=True) if o.requires_grad]
    if not chosen:
        return [None for _ in wanted]
    if not pairs:
        return [torch.zeros_like(t) if n else None for t, n in zip(inputs, wanted, strict=True)]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            chosen,
            [cotangent for _, cotangent in pairs],
            create_graph=torch.is_grad_enabled(),
            materialize_grads=True,
        )
    )
    return [next(found) if n else None for n in wanted]
