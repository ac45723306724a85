"""What every layer of a bijection contributes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.combinators import Invert
from flow_core.context import Context
from flow_core.passes import Pass
from flow_core.settings import DEFAULT_SETTINGS, Settings


@dataclass(frozen=True)
class LayerTrace:
    """One layer over one batch.

    Attributes:
        log_det: Mean log-determinant in nats.
        roundtrip_error: Largest difference of the input and its reconstruction from the output.
        largest_output: Largest magnitude of an output.
    """

    log_det: float
    roundtrip_error: float
    largest_output: float


@torch.no_grad()
def trace_layers(
    bijection: Bijection,
    x: Float[Tensor, " batch *shape"],
    *,
    context: Context = None,
    using: Settings | None = None,
) -> dict[str, LayerTrace]:
    """Log-determinant, reconstruction error and size of the output of every innermost layer.

    Layers are named as in the model and come in the order of use, under as many names as they are
    used; an inverted composition counts as one. The log-determinants add up to that of the
    bijection.

    Args:
        bijection: A composition of layers, called by `__call__` as the combinators do.
        x: Its input.
        context: First dimension the batch.
        using: What the calls do their work with.
    """
    traces: dict[str, LayerTrace] = {}
    layers = _innermost(bijection)
    handles = [m.register_forward_hook(_Watch(n, traces), with_kwargs=True) for m, n in layers]
    try:
        bijection(x, how=Pass(DEFAULT_SETTINGS if using is None else using, context))
    finally:
        for handle in handles:
            handle.remove()
    return traces


@dataclass(frozen=True)
class _Watch:
    """A forward hook that writes down what a layer did."""

    names: Iterator[str]
    traces: dict[str, LayerTrace]

    def __call__(
        self,
        layer: nn.Module,
        inputs: tuple[Tensor],
        options: dict[str, Pass],
        outputs: tuple[Tensor, Tensor],
    ) -> None:
        """Invert the output and keep the figures."""
        name = next(self.names)
        if not isinstance(layer, Bijection) or not inputs[0].numel():
            return
        y, log_det = outputs
        back = options["how"].turned()._replace(wants_log_det=False, reports=())
        # By forward itself, which calls no hook: this one would wait for itself.
        again = layer.forward(y, how=back)[0]
        self.traces[name] = LayerTrace(
            log_det=float(log_det.mean()),
            roundtrip_error=float((again - inputs[0]).abs().max()),
            largest_output=float(y.abs().max()),
        )


def _innermost(bijection: Bijection) -> list[tuple[Bijection, Iterator[str]]]:
    """The layers that call no other layer by `__call__`, with the names of their uses."""
    found: dict[Bijection, list[str]] = {}
    inside: set[int] = set()
    for name, module in bijection.named_modules(remove_duplicate=False):
        if id(module) in inside or not isinstance(module, Bijection):
            continue
        parts = [m for m in module.modules() if m is not module and isinstance(m, Bijection)]
        # An inverted composition is asked for its inverse: its layers come in the other order.
        if isinstance(module, Invert) or not parts:
            found.setdefault(module, []).append(name)
            inside.update(id(part) for part in parts)
    return [(layer, _uses(names)) for layer, names in found.items()]


def _uses(names: list[str]) -> Iterator[str]:
    """The names of a layer, then its last one with a number."""
    yield from names
    for use in count(len(names) + 1):
        yield f"{names[-1]}#{use}"
