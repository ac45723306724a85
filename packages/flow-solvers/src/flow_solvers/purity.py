"""Whether a callable is the function that a solve takes it for.

A `FunctionMap` is made of any callable: one that draws random numbers, updates buffers, mixes
samples or has weights that nobody listed. A solve of it would return something that solves no
equation, or has no gradient, without a word. All this shows at little cost: by the versions of the
tensors that are known, and by one more evaluation at some of the solutions.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_solvers import samples
from flow_solvers.function_map import FunctionMap
from flow_solvers.solution import Solution, Status
from flow_solvers.tolerance import Tolerance

# Whatever changes, changes for every sample; evaluating a few costs little more than the overhead.
_SAMPLES = 16
# Other neighbours in a batch round differently, by so many eps of the numbers in the residual.
_ROUNDING = 4
# Of the things inside a callable: what is further away is hardly a part of G.
_LOOKS = 32


class KnownTensors(NamedTuple):
    """Tensors that a function depends on, as far as they are known, and their versions."""

    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]


def state_of(bound: FunctionMap) -> KnownTensors:
    """The tensors that are listed, and those of modules that it is, holds or closes over."""
    modules = dict.fromkeys(_modules(bound.function))
    own = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    tensors = tuple(t for t in (*bound.tensors(), *own) if not t.is_inference())
    return KnownTensors(tensors, _versions(tensors))


def require_function(
    bound: FunctionMap,
    x: Float[Tensor, " batch *shape"],
    solution: Solution,
    tolerance: Tolerance,
    before: KnownTensors,
) -> bool:
    """Refuse a callable that changed during a solve, or mixes samples.

    Args:
        bound: G, with detached tensors.
        x: Right-hand side.
        solution: What was found.
        tolerance: What was asked for.
        before: The state of G before the solve.

    Returns:
        Whether gradients are lost: with gradients on, G wants one that none of its tensors gets.

    Raises:
        ValueError: It is no function.
    """
    if before.versions != _versions(before.tensors):
        raise ValueError(_expected("one that changed its own tensors"))
    count = min(_SAMPLES, (len(x) + 1) // 2)
    if count == 0:
        return False
    index = torch.arange(count, device=x.device)
    part, w = bound.select(index), solution.value[:count].detach()
    image = _evaluated(part, w)
    if _misses(part, x, solution, image.detach(), tolerance):
        raise ValueError(_expected("one with other values when it was evaluated again"))
    return image.requires_grad and _has_own_leaves(part, w, image)


def warn_of_lost_gradients() -> None:
    """Say that a weight gets no gradient."""
    warnings.warn(
        "G depends on a tensor that requires a gradient and is not among those of the FunctionMap: "
        "it gets none. List it in tensors= (a module: FunctionMap(lambda w, *p: functional_call("
        "module, dict(zip(names, p)), (w,)), tuple(module.parameters()))), or detach what is meant "
        "to be constant",
        UserWarning,
        stacklevel=4,
    )


def _evaluated(part: FunctionMap, w: Tensor) -> Tensor:
    try:
        return part(w)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(_expected("one that cannot be evaluated on part of a batch")) from error


def _misses(
    part: FunctionMap, x: Tensor, solution: Solution, image: Tensor, tolerance: Tolerance
) -> bool:
    """Whether a residual that was small enough no longer is; of others, whether G(w) changed."""
    x, w, status = (t[: len(image)] for t in (x, solution.value, solution.status))
    solved, off = status == Status.CONVERGED, x - w - image
    if not bool(solved.all()):
        again = _evaluated(part, w).detach()
        off = torch.where(samples.per_sample(solved, w), off, again - image)
    size_x, size_w, size_image, missed = samples.safe_lengths(x, w, image, off)
    factor = tolerance.relative(x.dtype) + _ROUNDING * torch.finfo(x.dtype).eps
    sizes = (factor * size.astype(np.float64) for size in (size_x, size_w, size_image))
    limit = sum(sizes, tolerance.floor(x))
    return bool((missed > limit).any())


def _has_own_leaves(part: FunctionMap, w: Tensor, image: Tensor) -> bool:
    """Whether the graph of G(w) ends in a leaf that is not made anew by every evaluation."""
    first, second = (frozenset(_leaves(value)) for value in (image, _evaluated(part, w)))
    return bool(first & second)


def _leaves(value: Tensor) -> Iterator[object]:
    seen: set[object] = set()
    waiting = [value.grad_fn]
    if value.grad_fn is None:
        yield value
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if not node.next_functions:
            yield node
        waiting.extend(found for found, _ in node.next_functions)


def _versions(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(t._version for t in tensors)


def _modules(function: object) -> Iterator[nn.Module]:
    """Modules that a callable is, is a method of, closes over or holds, the nearest ones first."""
    waiting, room = deque([function]), _LOOKS
    while waiting:
        part = waiting.popleft()
        if isinstance(part, nn.Module):
            yield part
            continue
        found = list(islice(_insides(part), room))
        room -= len(found)
        waiting.extend(found)


def _insides(part: object) -> Iterator[object]:
    if isinstance(part, partial):
        whole = cast("partial[object]", part)
        yield from (whole.func, *whole.args, *whole.keywords.values())
    elif isinstance(part, FunctionType):
        yield from _known_to(part)
    elif isinstance(part, MethodType):
        yield from (part.__self__, part.__func__)
    elif isinstance(part, list | tuple | dict):
        items = cast("dict[object, object] | list[object] | tuple[object, ...]", part)
        yield from items.values() if isinstance(items, dict) else items
    elif not isinstance(part, type | ModuleType | Tensor):
        yield from getattr(part, "__dict__", {}).values()


def _known_to(function: FunctionType) -> Iterator[object]:
    """What a function closes over, and the modules among the globals that it names."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for name in function.__code__.co_names:
        if isinstance(function.__globals__.get(name), nn.Module):
            yield function.__globals__[name]


def _expected(got: str) -> str:
    return (
        f"expected G to be a function of its point and its tensors, sample by sample, got {got}. "
        "Modules with state (batch norm, dropout, spectral_norm) do that in training mode: call "
        "eval() first, or compute their weights once and list them in tensors=; random numbers are "
        "drawn before the solve, and what belongs to samples is listed in per_sample="
    )
