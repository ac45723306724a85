"""What autograd Functions need to know of torch, and torch has no public name for."""

import inspect
from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,  # pyright: ignore[reportPrivateUsage]  # no public name
    _len_torch_dispatch_stack,  # pyright: ignore[reportPrivateUsage]  # likewise
)
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import Function, forward_ad
from torch.nn import Parameter

_PLAIN = (Tensor, Parameter)


def is_differentiated(*tensors: Tensor) -> bool:
    """Whether anything records or transforms what is done with the tensors.

    If nothing does, a Function may be left out, which costs as much as ten operations on a small
    tensor.
    """
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return recorded or is_transformed()


def is_transformed() -> bool:
    """Whether forward mode or a transform of torch.func is active, to ask while compiling too."""
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]  # no public name


# What torch.compiler.assume_constant_result does, without the seconds that importing Dynamo takes.
is_transformed.__dict__["_dynamo_marked_constant"] = True


def is_plain_cpu(*tensors: Tensor) -> bool:
    """Whether the tensors have CPU memory of their own, that operations may write to.

    Fake and distributed tensors have none, nor have the batched ones that
    `torch.autograd.grad(..., is_grads_batched=True)` passes around the `vmap` rules.
    """
    return all(tensor.is_cpu and _is_plain(tensor) for tensor in tensors)


def is_addressable(*tensors: Tensor) -> bool:
    """Whether kernels that torch does not know of may read the tensors where they lie.

    Tracers and other dispatch modes would not see the kernel; the zeros that forward mode makes up
    have no memory.
    """
    watched = _len_torch_dispatch_stack() > 0
    return not watched and all(_is_plain(t) and not t._is_zerotensor() for t in tensors)


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in _PLAIN and not is_legacy_batchedtensor(tensor)


def forward_mode() -> AbstractContextManager[None]:
    """Switch forward mode on in a `jvp` rule; what is computed there must come from `primals`.

    torch switches it off while it calls the rule, so that forward mode over forward mode would
    silently give zero.
    """
    return forward_ad._set_fwd_grad_enabled(True)  # pyright: ignore[reportPrivateUsage]  # as above


def primals(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors without their tangents of the innermost level; those of outer levels remain."""
    return [
        cast(Tensor, forward_ad.unpack_dual(tensor).primal)  # type: ignore[no-untyped-call]
        for tensor in tensors
    ]


def keep_signature(function: type[Function]) -> None:
    """Attach the signature of `forward`, which torch would inspect anew at every call."""
    function.forward.__dict__["__signature__"] = inspect.signature(function.forward)
