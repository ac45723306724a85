"""From operations that ran to steps over memory."""
# ruff: noqa: ANN401  (arguments of operations are anything)

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from flow_core.maps.native.errors import UnsupportedError
from flow_core.maps.native.kernels import Step
from flow_core.maps.native.loops import Assign, Loop, Operand, Total
from flow_core.maps.native.places import C_TYPES, Place
from flow_core.maps.native.pointwise import POINTWISE
from flow_core.maps.native.products import Product, is_by_rows
from flow_core.maps.native.tape import TapedCall

# Larger tensors are worth several threads, which this code does not use.
_LARGEST_BYTES = 1 << 20
_EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Lowering:
    """Makes steps of calls.

    Attributes:
        steps: What is to be done.
        bytes: Of every piece of memory, by its number; the inputs come first.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.steps: list[Step] = []
        self.bytes: list[int] = []
        self._bases: dict[int, int] = {}
        for tensor in inputs:
            self._new_base(tensor)
        self._inputs = len(self.bytes)

    def add(self, call: TapedCall) -> None:
        """Add what a call does.

        Raises:
            UnsupportedError: There is no rule for it.
        """
        if not call.outputs:
            raise UnsupportedError(f"{call.name}, whose result is no tensor")
        if not call.writes and all(map(self._is_known, call.outputs)):
            return  # a view
        for tensor in call.outputs:
            if not self._is_known(tensor):
                self._new_base(tensor)
        if call.name in _EMPTY:
            return
        if call.writes and any(self.place(t).base < self._inputs for t in call.outputs):
            raise UnsupportedError(f"{call.name} on an input")
        rule = _RULES.get(call.name)
        if rule is not None:
            rule(self, call.outputs[0], call.arguments)
        elif call.name in POINTWISE:
            self._pointwise(POINTWISE[call.name], call.outputs[0], call.arguments)
        else:
            raise UnsupportedError(call.name)

    def place(self, tensor: Tensor) -> Place:
        """Where a tensor lies.

        Raises:
            UnsupportedError: It is no input and no result, or not of a type that C has.
        """
        if not self._is_known(tensor) or tensor.dtype not in C_TYPES:
            raise UnsupportedError(f"a tensor of {tensor.dtype} from elsewhere")
        base = self._bases[tensor.untyped_storage().data_ptr()]
        offset = int(tensor.storage_offset())
        return Place(base, offset, tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def memory(self, shape: Sequence[int], dtype: torch.dtype) -> Place:
        """A new piece of memory."""
        strides = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
        self.bytes.append(prod(shape) * dtype.itemsize)
        return Place(len(self.bytes) - 1, 0, tuple(shape), strides, dtype)

    def assign(self, target: Place, source: Operand) -> None:
        """Copy, or fill."""
        self._assign(target, "{self}", {"self": source})

    def _assign(self, target: Place, template: str, operands: Mapping[str, Operand]) -> None:
        places = {
            name: operand.broadcast(target.shape).squeezed()
            for name, operand in operands.items()
            if isinstance(operand, Place)
        }
        operands = {**operands, **places}
        # Comparisons give truth values, and are done in the precision of what they compare.
        dtype = _common(operands) if target.dtype == torch.bool else target.dtype
        new = Assign(target.squeezed(), template, operands, dtype)
        last = self.steps[-1] if self.steps else None
        if not (isinstance(last, Loop) and last.accepts(new)):
            last = Loop(new.target.shape)
            self.steps.append(last)
        last.assigns.append(new)

    def _operand(self, value: Any) -> Operand:
        if not isinstance(value, Tensor):
            return cast("float", value)
        if value.ndim or self._is_known(value):
            return self.place(value)
        # A number that was made outside, a constant of an operation: closed maps have no others.
        return cast("float", value.item())

    def _pointwise(self, template: str, target: Tensor, arguments: Mapping[str, Any]) -> None:
        used = {k: v for k, v in arguments.items() if "{" + k + "}" in template}
        if arguments.get("rounding_mode") is not None:
            raise UnsupportedError("rounded division")
        operands = {k: self._operand(v) for k, v in used.items()}
        self._assign(self.place(target), template, operands)

    def _is_known(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._bases

    def _new_base(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if not 0 < storage.nbytes() <= _LARGEST_BYTES:
            raise UnsupportedError("no small tensor")
        self._bases[storage.data_ptr()] = len(self.bytes)
        self.bytes.append(storage.nbytes())

    def clamp(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """Either bound may be missing."""
        text = "{self}"
        if arguments.get("min") is not None:
            text = f"({text} < {{min}} ? {{min}} : {text})"
        if arguments.get("max") is not None:
            text = f"({text} > {{max}} ? {{max}} : {text})"
        self._pointwise(text, target, arguments)

    def invert(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """Of truth values only."""
        if target.dtype != torch.bool:
            raise UnsupportedError("bits of integers")
        self._pointwise("!{self}", target, arguments)

    def convert(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """Another precision."""
        self._pointwise("{self}", target, arguments)

    def concatenate(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """Piece by piece."""
        tensors, dim = cast("Sequence[Tensor]", arguments["tensors"]), int(arguments["dim"])
        parts = torch.split(target, [t.shape[dim] for t in tensors], dim)
        for part, tensor in zip(parts, tensors, strict=True):
            self.assign(self.place(part), self._operand(tensor))

    def stack(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """Piece by piece."""
        tensors = cast("Sequence[Tensor]", arguments["tensors"])
        for part, tensor in zip(target.unbind(int(arguments["dim"])), tensors, strict=True):
            self.assign(self.place(part), self._operand(tensor))

    def eye(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """Zeros, and ones on the diagonal."""
        del arguments
        self.assign(self.place(target), 0)
        self.assign(self.place(target.diagonal()), 1)

    def slice_backward(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """Zeros around the gradient."""
        numbers = (arguments[k] for k in ("dim", "start", "end", "step"))
        part = torch.ops.aten.slice.Tensor(target, *numbers)
        self._surround(target, part, arguments)

    def select_backward(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """Zeros around the gradient."""
        part = target.select(arguments["dim"], arguments["index"])
        self._surround(target, part, arguments)

    def _surround(self, target: Tensor, part: Tensor, arguments: Mapping[str, Any]) -> None:
        self.assign(self.place(target), 0)
        self.assign(self.place(part), self._operand(arguments["grad_output"]))

    def sum(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """Over some dimensions."""
        source = cast(Place, self._operand(arguments["self"]))
        rank = len(source.shape)
        if not rank:
            raise UnsupportedError("a sum of one number")
        dims = {d % rank for d in arguments.get("dim") or range(rank)}
        kept = [k for k in range(rank) if k not in dims]
        place = self.place(target)
        if len(place.shape) == rank:
            place = place.permuted(tuple(kept))
        self.steps.append(Total(place, source.permuted((*kept, *sorted(dims)))))

    def mm(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """A matrix product."""
        left, right = (cast(Place, self._operand(arguments[k])) for k in ("self", "mat2"))
        self._multiply(self.place(target), left, right, adds=False)

    def addmm(self, target: Tensor, arguments: Mapping[str, Any]) -> None:
        """A matrix product and a bias."""
        if (arguments["alpha"], arguments["beta"]) != (1, 1):
            raise UnsupportedError("scaled addmm")
        left, right = (cast(Place, self._operand(arguments[k])) for k in ("mat1", "mat2"))
        self.assign(self.place(target), self._operand(arguments["self"]))
        self._multiply(self.place(target), left, right, adds=True)

    def _multiply(self, target: Place, left: Place, right: Place, *, adds: bool) -> None:
        if target.strides[1] != 1:
            raise UnsupportedError("a product into columns")
        if right.strides[1] != 1 and not is_by_rows(left, right):
            copy = self.memory(right.shape, right.dtype)
            self.assign(copy, right)
            right = copy
        self.steps.append(Product(target, left, right, adds))


_RANKS = (torch.bool, torch.int64, torch.float32, torch.float64)
_OF_NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float32}


def _common(operands: Mapping[str, Operand]) -> torch.dtype:
    dtypes = [o.dtype if isinstance(o, Place) else _OF_NUMBERS[type(o)] for o in operands.values()]
    return max(dtypes, key=_RANKS.index, default=torch.bool)


_RULES: Mapping[str, Callable[[Lowering, Tensor, Mapping[str, Any]], None]] = {
    "_to_copy": Lowering.convert,
    "addmm": Lowering.addmm,
    "bitwise_not": Lowering.invert,
    "cat": Lowering.concatenate,
    "clamp": Lowering.clamp,
    "clamp_max": Lowering.clamp,
    "clamp_min": Lowering.clamp,
    "eye": Lowering.eye,
    "mm": Lowering.mm,
    "select_backward": Lowering.select_backward,
    "slice_backward": Lowering.slice_backward,
    "stack": Lowering.stack,
    "sum": Lowering.sum,
}
