"""What operations a function runs."""
# ruff: noqa: ANN401  (operations take anything)

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # torch's documented extension point


class TapedCall(NamedTuple):
    """One operation.

    Attributes:
        name: Without namespace, overload and the mark of in-place ones.
        arguments: By the names of the schema.
        outputs: The tensors that it returned.
        writes: Whether it changes one of its arguments.
    """

    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    writes: bool


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps all operations that run, and so the tensors too: no memory is used twice."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[TapedCall] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        found = cast("Callable[..., Any]", func)(*args, **given)
        schema = func._schema
        names = [argument.name for argument in schema.arguments]
        arguments = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        arguments |= dict(zip(names, args, strict=False)) | given
        outputs = tuple(t for t in _listed(found) if isinstance(t, Tensor))
        name = schema.name.removeprefix("aten::").removesuffix("_")
        self.calls.append(TapedCall(name, arguments, outputs, schema.is_mutable))
        return found


def _listed(found: Any) -> Iterable[Any]:
    return cast("Iterable[Any]", found) if isinstance(found, list | tuple) else (found,)
