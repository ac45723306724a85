"""Compiled programs."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from flow_core.maps.native.circular import CIRCULAR
from flow_core.maps.native.errors import FaultyCompilerError, UnsupportedError
from flow_core.maps.native.kernels import CFunction
from flow_core.maps.native.lowering import Lowering
from flow_core.maps.native.places import Place
from flow_core.maps.native.pointwise import PRELUDE
from flow_core.maps.native.products import VECTORS
from flow_core.maps.native.tape import Tape

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A function of tensors, without branches on their elements."""

_ALIGNMENT = 64
# What sums in another order may differ by, against the largest element.
_ROUNDINGS = 1e4
# Nothing that changes a value: the sums whose order does not matter say so themselves.
_FLAGS = (
    "-O3",
    "-march=native",
    "-fPIC",
    "-shared",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    # Results must not depend on where the inputs lie.
    "--param=vect-max-peeling-for-alignment=0",
)


@final
class Program:
    """A function of tensors of fixed shapes that is one call of C."""

    def __init__(self, code: str, outputs: Sequence[Place], scratch: int) -> None:
        self._run = _loaded(code)
        self._outputs = [(place.shape, place.dtype) for place in outputs]
        # Whoever calls holds the interpreter's lock, so that one suffices.
        self._scratch = torch.empty(scratch + _ALIGNMENT, dtype=torch.uint8)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, in new memory."""
        kept = [t.contiguous() for t in inputs]
        outputs = [torch.empty(shape, dtype=dtype) for shape, dtype in self._outputs]
        first = _aligned(self._scratch.data_ptr())
        pointers = [first, *(t.data_ptr() for t in kept), *(t.data_ptr() for t in outputs)]
        self._run((ctypes.c_void_p * len(pointers))(*pointers))
        return outputs


def compile_run(function: Run, inputs: Sequence[Tensor]) -> Program:
    """Compile what a function does with tensors of these shapes.

    Raises:
        UnsupportedError: It does something there is no rule for, or there is no C compiler.
        FaultyCompilerError: The compiler fails, or what it made gives other numbers.
    """
    if not all(t.is_cpu for t in inputs):
        raise UnsupportedError("not on the CPU")
    # No two inputs share memory: what is compiled must not depend on that.
    copies = [t.detach().clone(memory_format=torch.contiguous_format) for t in inputs]
    with torch.no_grad(), Tape() as tape:
        results = list(function(copies))
    lowering = Lowering(copies)
    for call in tape.calls:
        lowering.add(call)
    outputs = [_returned(lowering, t) for t in results]
    program = _assembled(lowering, len(copies), outputs)
    _require_agreement(program(copies), results, copies)
    return program


def _require_agreement(
    found: Sequence[Tensor], expected: Sequence[Tensor], inputs: Sequence[Tensor]
) -> None:
    """Refuse code that does not compute what the operations did: compilers have faults too.

    Differences are measured against the largest number that goes in or comes out, because a
    residual is nothing but rounding. Truth values follow from such numbers and are not compared.
    """
    real = [t for t in (*inputs, *expected) if t.is_floating_point() and t.numel()]
    size = max((float(t.nan_to_num(0, 0, 0).abs().max()) for t in real), default=0.0)
    for one, other in zip(found, expected, strict=True):
        if not one.is_floating_point():
            continue
        most = _ROUNDINGS * torch.finfo(one.dtype).eps * size
        if not torch.allclose(one, other, rtol=0.0, atol=most, equal_nan=True):
            raise FaultyCompilerError("the compiled code gives other numbers")


def _returned(lowering: Lowering, result: Tensor) -> Place:
    """The result in memory of its own."""
    place = lowering.memory(result.shape, result.dtype)
    lowering.assign(place, lowering.place(result))
    return place


def _assembled(lowering: Lowering, inputs: int, outputs: Sequence[Place]) -> Program:
    results = [place.base for place in outputs]
    loaded = {base for step in lowering.steps for base in step.loaded()}
    found = (step.kernel(frozenset({*loaded, *results})) for step in lowering.steps)
    kernels = [kernel for kernel in found if kernel is not None]
    fixed = {base: f"m[{i + 1}]" for i, base in enumerate((*range(inputs), *results))}
    offsets, scratch = _arranged(kernels, lowering.bytes, fixed)
    inner = {base: f"((char *)m[0] + {offset})" for base, offset in offsets.items()}
    return Program(_text(kernels, fixed | inner), outputs, scratch)


def _arranged(
    kernels: Sequence[CFunction], sizes: Sequence[int], fixed: Container[int]
) -> tuple[dict[int, int], int]:
    """Offsets of pieces of memory, which are used again after their last use; and their end."""
    used = [dict.fromkeys(b for b, _ in k.arguments if b not in fixed) for k in kernels]
    last = {base: i for i, bases in enumerate(used) for base in bases}
    offsets: dict[int, int] = {}
    free: defaultdict[int, list[int]] = defaultdict(list)
    end = 0
    for i, bases in enumerate(used):
        for base in bases:
            size = _aligned(sizes[base])
            if base in offsets:
                continue
            if free[size]:
                offsets[base] = free[size].pop()
            else:
                offsets[base], end = end, end + size
        for base in bases:
            if last[base] == i:
                free[_aligned(sizes[base])].append(offsets[base])
    return offsets, end


def _aligned(number: int) -> int:
    return -(-number // _ALIGNMENT) * _ALIGNMENT


def _text(kernels: Sequence[CFunction], places: Mapping[int, str]) -> str:
    """One C function a kernel, where equal ones are one, and one that calls them in order."""
    names: dict[tuple[tuple[tuple[str, str], ...], str], str] = {}
    calls: list[str] = []
    for kernel in kernels:
        name = names.setdefault((kernel.parameters, kernel.body), f"k{len(names)}")
        pairs = zip(kernel.parameters, kernel.arguments, strict=True)
        given = [f"({kind} *){places[base]} + {offset}" for (kind, _), (base, offset) in pairs]
        calls.append(f"{name}({', '.join(given)});")
    functions = [_function(name, *definition) for definition, name in names.items()]
    return "\n".join(
        (PRELUDE, CIRCULAR, VECTORS, *functions, "void run(void **m) {", *calls, "}\n")
    )


def _function(name: str, parameters: tuple[tuple[str, str], ...], body: str) -> str:
    declared = ", ".join(f"{kind} *restrict {parameter}" for kind, parameter in parameters)
    return f"static __attribute__((noinline)) void {name}({declared}) {{\n{body}\n}}"


def _compiler() -> str:
    named = os.environ.get("CC")
    found = (shutil.which(name) for name in ((named,) if named else ("cc", "gcc", "clang")))
    compiler = next((path for path in found if path is not None), None)
    if compiler is None:
        raise UnsupportedError("no C compiler")
    return compiler


def _loaded(code: str) -> Callable[[object], None]:
    with tempfile.TemporaryDirectory(prefix="flow-native-") as folder:
        source, library = Path(folder, "run.c"), Path(folder, "run.so")
        source.write_text(code)
        command = [_compiler(), *_FLAGS, str(source), "-o", str(library), "-lm"]
        try:
            subprocess.run(command, capture_output=True, check=True)
            # Keeps the interpreter's lock, unlike `CDLL`.
            run = ctypes.PyDLL(str(library)).run
        except (OSError, subprocess.CalledProcessError) as error:
            raise FaultyCompilerError(str(error)) from error
    run.restype = None
    return run
