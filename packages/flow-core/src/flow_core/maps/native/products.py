"""Matrix products of small matrices."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flow_core.maps.native.kernels import CFunction, Pointers, head
from flow_core.maps.native.places import Place

_ROWS = 4
_LONG = 64
# Bytes of a vector of a tile; two of them side by side, and smaller ones where columns end.
_VECTOR_BYTES = 64


@dataclass(frozen=True)
class Product:
    """A matrix product, that is added to the target or replaces it.

    The right factor has neighbours side by side, or `is_by_rows` holds.
    """

    target: Place
    left: Place
    right: Place
    adds: bool

    def loaded(self) -> Iterable[int]:
        """The factors, and the target where it counts."""
        yield from (self.left.base, self.right.base)
        if self.adds:
            yield self.target.base

    def kernel(self, kept: frozenset[int]) -> CFunction:
        """Tiles that stay in registers, or inner products of long rows."""
        del kept
        pointers = Pointers()
        lines = _tiles if self.right.strides[1] == 1 else _inner_products
        return pointers.kernel(lines(self, pointers))


def is_by_rows(left: Place, right: Place) -> bool:
    """Whether the rows of the left factor and the columns of the right one are contiguous.

    And long: to sum up a vector at the end costs as much as several products of vectors.
    """
    return left.strides[1] == 1 and right.strides[0] == 1 and left.shape[1] >= _LONG


def _inner_products(step: Product, pointers: Pointers) -> Iterator[str]:
    """Some columns share what is loaded of a row."""
    (rows, inner), columns = step.left.shape, step.right.shape[1]
    yield head("i", rows)
    for start in range(0, columns, _ROWS):
        js = [str(j) for j in range(start, min(start + _ROWS, columns))]
        yield f"{{ {step.target.c_type} {', '.join(f't{j} = 0' for j in js)};"
        yield f"#pragma omp simd reduction(+:{', '.join(f't{j}' for j in js)})"
        yield head("k", inner)
        left = pointers.at(step.left, ("i", "k"))
        yield from (f"t{j} += {left} * {pointers.at(step.right, ('k', j))};" for j in js)
        yield "}"
        yield from (_stored(step, pointers.at(step.target, ("i", j)), f"t{j}") for j in js)
        yield "}"
    yield "}"


def _tiles(step: Product, pointers: Pointers) -> Iterator[str]:
    """Some rows times some columns at once."""
    rows, columns = step.target.shape
    lanes = _VECTOR_BYTES // step.target.dtype.itemsize
    widths = [2 * lanes, *(n for n in (16, 8, 4, 1) if n <= lanes)]
    for first, stop, width in _pieces(columns, widths):
        yield f"for (long j = {first}; j < {stop}; j += {width}) {{"
        for top, bottom, height in _pieces(rows, (_ROWS, 2, 1)):
            yield f"for (long i = {top}; i < {bottom}; i += {height}) {{"
            yield from _tile(step, pointers, height, [min(width, lanes)] * -(-width // lanes))
            yield "}"
        yield "}"


def _pieces(length: int, sizes: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Starts and ends of the parts of a range that pieces of falling sizes fill."""
    start = 0
    for size in sizes:
        stop = start + (length - start) // size * size
        if stop > start:
            yield start, stop, size
        start = stop


def _tile(step: Product, pointers: Pointers, height: int, lanes: list[int]) -> Iterator[str]:
    kind = step.target.c_type
    columns = list(enumerate(lanes))
    for r in range(height):
        yield from (f"{_vector(kind, n)} t{r}_{c} = {{0}};" for c, n in columns)
    yield head("k", step.left.shape[1])
    for c, n in columns:
        at = pointers.at(step.right, ("k", f"(j + {c * n})"))
        yield f"const {_vector(kind, n)} b{c} = {_together(at, kind, n)};"
    for r in range(height):
        yield f"const {kind} a{r} = {pointers.at(step.left, (f'(i + {r})', 'k'))};"
        yield from (f"t{r}_{c} += a{r} * b{c};" for c, _ in columns)
    yield "}"
    for r in range(height):
        for c, n in columns:
            at = pointers.at(step.target, (f"(i + {r})", f"(j + {c * n})"))
            yield _stored(step, _together(at, kind, n), f"t{r}_{c}")


def _stored(step: Product, at: str, value: str) -> str:
    return f"{at} {'+=' if step.adds else '='} {value};"


def _vector(kind: str, lanes: int) -> str:
    return kind if lanes == 1 else f"{kind}{lanes}"


def _together(at: str, kind: str, lanes: int) -> str:
    """Neighbours as one vector, wherever they lie."""
    return at if lanes == 1 else f"*({kind}{lanes}_anywhere *)&{at}"


VECTORS = "\n".join(
    f"typedef {kind} {kind}{n} __attribute__((vector_size({n * size})));\n"
    f"typedef {kind} {kind}{n}_anywhere "
    f"__attribute__((vector_size({n * size}), aligned({size}), may_alias));"
    for kind, size in (("float", 4), ("double", 8))
    for n in (4, 8, 16)
)
