"""What no transform of torch.func can go through, and the error that says so."""
# ruff: noqa: ANN401  (torch gives the context of a Function no type)

from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,  # pyright: ignore[reportPrivateUsage]  # no public name
)
from torch._C._functorch import (
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
    is_legacy_batchedtensor,
)
from torch.autograd import Function, forward_ad


class Untransformed(Function):
    """A Function whose work depends on numbers: it has no rule for vmap and none for forward mode.

    `torch.func.vmap`, `jacrev`, `jacfwd`, `hessian` and `jvp` are refused with an error that says
    what to do; `torch.func.grad` and `vjp` work.
    """

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> NoReturn:
        """Refuse.

        Raises:
            RuntimeError: Always.
        """
        del info, in_dims, args
        raise RuntimeError(_MESSAGE)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> NoReturn:
        """Refuse.

        Raises:
            RuntimeError: Always.
        """
        del ctx, grad_inputs
        raise RuntimeError(_MESSAGE)


def refuse_transforms(*tensors: Tensor) -> None:
    """Refuse tensors of vmap and of forward mode, before any work is done.

    Raises:
        RuntimeError: There are some.
    """
    if _nothing_is_transformed():
        return
    if any(is_batchedtensor(layer) for t in tensors for layer in _layers(t)):
        raise RuntimeError(_MESSAGE)
    refuse_forward_mode(*tensors)


def refuse_forward_mode(*tensors: Tensor) -> None:
    """Refuse tensors with a tangent, which what has no graph would silently lose.

    Raises:
        RuntimeError: There are some.
    """
    if _nothing_is_transformed() or forward_ad._current_level < 0:  # pyright: ignore[reportPrivateUsage]  # no public name
        return
    if any(_has_tangent(layer) for t in tensors for layer in _layers(t)):
        raise RuntimeError(_MESSAGE)


def refuse_batched(*cotangents: Tensor | None) -> None:
    """Refuse the cotangents of `torch.autograd.grad(..., is_grads_batched=True)`.

    Raises:
        RuntimeError: There are some.
    """
    if any(c is not None and is_legacy_batchedtensor(c) for c in cotangents):
        raise RuntimeError(_MESSAGE)


def _nothing_is_transformed() -> bool:
    if torch.compiler.is_compiling():
        return True
    return not _are_functorch_transforms_active() and forward_ad._current_level < 0  # pyright: ignore[reportPrivateUsage]  # likewise


def _layers(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor as every transform around it sees it."""
    yield tensor
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
        yield tensor


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]  # as torch has it


_MESSAGE = (
    "a solve or a stochastic log-determinant works through loops that depend on numbers: expected "
    "plain batches, got torch.func.vmap, jacrev, jacfwd, hessian, forward mode or a vectorized "
    "Jacobian. For the Jacobian of a bijection call flow_core.jacobian; to map over samples put "
    "them into the batch; for other derivatives call torch.autograd.grad for each row, with "
    "create_graph=True for second ones"
)
