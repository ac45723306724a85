"""Refusals of modules of a wrong kind."""

from flow_solvers import require_kind
from torch import nn


def require_module(name: str, value: object, kind: type[nn.Module], example: str) -> None:
    """Refuse what is no module of a kind, nor one that answers as such.

    What `torch.compile` and `checkpoint_wrapper` make of a module is of another class, and has all
    that the module has.

    Raises:
        TypeError: With what to pass instead.
    """
    public = (attribute for attribute in vars(kind) if not attribute.startswith("_"))
    if not isinstance(value, nn.Module) or not all(hasattr(value, name) for name in public):
        require_kind(name, value, kind, example)
