"""Pointwise operations and sums, as loops."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from math import isinf, isnan
from typing import NamedTuple

import torch

from flow_core.maps.native.circular import NEAR
from flow_core.maps.native.kernels import CFunction, Pointers, head
from flow_core.maps.native.places import C_TYPES, Place, overlap

Operand = Place | bool | int | float
"""A place, or a number."""


class Assign(NamedTuple):
    """A pointwise operation.

    Attributes:
        target: Where the result goes.
        template: C of it.
        operands: By their names in the template; places have the shape of the target.
        dtype: That it is computed in.
    """

    target: Place
    template: str
    operands: Mapping[str, Operand]
    dtype: torch.dtype

    def places(self) -> list[Place]:
        """What it reads."""
        return [o for o in self.operands.values() if isinstance(o, Place)]


@dataclass
class Loop:
    """Pointwise operations of one shape, in one loop."""

    shape: tuple[int, ...]
    assigns: list[Assign] = field(default_factory=list[Assign])

    def accepts(self, new: Assign) -> bool:
        """Whether the operation may be done element by element with those before it."""
        if new.target.shape != self.shape:
            return False
        written = [a.target for a in self.assigns]
        read = [place for a in self.assigns for place in a.places()]
        conflicts = [(old, place) for old in written for place in (new.target, *new.places())]
        conflicts += [(old, new.target) for old in read]
        return not any(a != b and overlap(a, b) for a, b in conflicts)

    def loaded(self) -> Iterable[int]:
        """What is read before it is written here."""
        known: set[Place] = set()
        for assign in self.assigns:
            yield from (place.base for place in assign.places() if place not in known)
            known.add(assign.target)

    def kernel(self, kept: frozenset[int]) -> CFunction | None:
        """One nest of loops."""
        targets = {a.target for a in self.assigns if a.target.base in kept}
        if not targets:
            return None
        pointers = Pointers()
        plain = self._nest(pointers, targets, {})
        # What is run again must find its inputs unchanged.
        if not self._has_near() or not {t.base for t in targets}.isdisjoint(self.loaded()):
            return pointers.kernel(plain)
        near = self._nest(pointers, targets, NEAR)
        return pointers.kernel(("int far = 0;", *near, "if (far) {", *plain, "}"))

    def _has_near(self) -> bool:
        return any(a.template in NEAR and a.dtype == torch.float32 for a in self.assigns)

    def _nest(
        self, pointers: Pointers, targets: Container[Place], others: Mapping[str, str]
    ) -> list[str]:
        """Loops within each other, with other templates for those in single precision."""
        order, indices = _order(self.shape), [f"i{k}" for k in range(len(self.shape))]
        lines, known = [head(indices[k], self.shape[k]) for k in order], dict[Place, str]()
        for number, assign in enumerate(self.assigns):
            # Loads come first: gcc 12 makes wrong masked loads of those in the arms of a `?:`.
            for place in assign.places():
                if place not in known:
                    known[place] = f"x{len(known)}"
                    at = pointers.at(place, indices)
                    lines.append(f"const {place.c_type} {known[place]} = {at};")
            value = _value(assign, known, others)
            known[assign.target] = f"v{number}"
            lines.append(f"const {assign.target.c_type} v{number} = {value};")
        lines += [f"{pointers.at(t, indices)} = {known[t]};" for t in known if t in targets]
        return [*_vectorized(lines, len(order)), "}" * len(order)]


@dataclass(frozen=True)
class Total:
    """A sum over the last dimensions of the source; the target has the first ones."""

    target: Place
    source: Place

    def loaded(self) -> Iterable[int]:
        """The source."""
        return [self.source.base]

    def kernel(self, kept: frozenset[int]) -> CFunction:
        """Sums side by side where neighbours belong to different ones, else one after another."""
        del kept
        kept_dims, pointers, indices = len(self.target.shape), Pointers(), _indices(self.source)
        inner, strides, sizes = 0, self.source.strides, self.source.shape
        if sizes:
            inner = max(range(len(sizes)), key=lambda k: (strides[k] == 1, sizes[k]))
        heads = [head(*pair) for pair in zip(indices, sizes, strict=True)]
        last = heads.pop(inner) if heads else "{"
        target = pointers.at(self.target, indices[:kept_dims])
        source = pointers.at(self.source, indices)
        if inner < kept_dims:
            outer, over = heads[: kept_dims - 1], heads[kept_dims - 1 :]
            lines = [*outer, last, f"{target} = 0;", "}"]
            lines += [*over, last, f"{target} += {source};", "}" * (1 + len(heads))]
            return pointers.kernel(lines)
        outer, over = heads[:kept_dims], heads[kept_dims:]
        summed = ["#pragma omp simd reduction(+:total)", last, f"total += {source};"]
        lines = [*outer, f"{self.target.c_type} total = 0;", *over, *summed]
        lines += ["}" * (1 + len(over)), f"{target} = total;", "}" * len(outer)]
        return pointers.kernel(lines)


def _indices(place: Place) -> list[str]:
    return [f"i{k}" for k in range(len(place.shape))]


def _order(shape: tuple[int, ...]) -> list[int]:
    """The longest dimension runs fastest."""
    if not shape:
        return []
    inner = max(range(len(shape)), key=lambda k: (shape[k], k))
    return [*(k for k in range(len(shape)) if k != inner), inner]


def _vectorized(lines: list[str], depth: int) -> list[str]:
    """Tell the compiler that no element depends on another one."""
    return lines if depth == 0 else [*lines[: depth - 1], "#pragma GCC ivdep", *lines[depth - 1 :]]


def _value(assign: Assign, known: Mapping[Place, str], others: Mapping[str, str]) -> str:
    kind, template = C_TYPES[assign.dtype], assign.template
    if assign.dtype == torch.float32:
        template = others.get(template, template)

    def text(name: str, operand: Operand) -> str:
        """An operand in the precision of the operation."""
        if not isinstance(operand, Place):
            return f"(({kind}){_literal(operand)})"
        same = operand.dtype == assign.dtype or name == "condition"
        return known[operand] if same else f"(({kind}){known[operand]})"

    texts = {name: text(name, operand) for name, operand in assign.operands.items()}
    suffix = "f" if assign.dtype == torch.float32 else ""
    value = template.format_map({**texts, "f": suffix})
    return f"({value}) != 0" if assign.target.dtype == torch.bool else value


def _literal(number: float) -> str:
    if isnan(number):
        return '__builtin_nan("")'
    if isinf(number):
        return "__builtin_inf()" if number > 0 else "(-__builtin_inf())"
    return repr(int(number) if isinstance(number, bool) else number)
