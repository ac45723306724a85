"""Setting data-dependent parameters, once, before training."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from flow_core.context import Context
from flow_core.layers.data_dependent import DataDependent
from flow_core.statistics import true_on_all_ranks


@runtime_checkable
class Initializable(Protocol):
    """A model that passes a batch through its layers and lets them take statistics."""

    def initialize(self, x: Tensor, *, context: Context = None) -> Tensor:
        """Set data-dependent parameters from a batch, and return the output."""
        ...


@dataclass(frozen=True)
class InitializationReport:
    """What `initialize` did.

    Attributes:
        initialized: Names of the layers whose parameters were set now.
        kept: Names of the layers that had been set before and were left as they were.
        output_mean: Mean of the output of the batch.
        output_std: Standard deviation of the output of the batch.
    """

    initialized: tuple[str, ...]
    kept: tuple[str, ...]
    output_mean: float
    output_std: float

    def __str__(self) -> str:
        return (
            f"initialized {len(self.initialized)} layers, kept {len(self.kept)}; output mean "
            f"{self.output_mean:.4g}, standard deviation {self.output_std:.4g}"
        )


def initialize(model: nn.Module, x: Tensor, context: Context = None) -> InitializationReport:
    """Set the data-dependent parameters of a bijection, `Flow` or `Dequantized` from a batch.

    Layers are set one after the other, each on the output of the one before. In a distributed run
    every rank calls this with its own batch and the statistics are those of all of them.

    Args:
        model: A model on one rank, not wrapped by DDP.
        x: A batch of training data, of the kind that the model is called with.
        context: First dimension the batch.

    Raises:
        RuntimeError: If all data-dependent layers are set already.
        ValueError: If the batch holds values that are not finite.
        TypeError: If the model cannot be initialized.
    """
    if not isinstance(model, Initializable):
        raise TypeError(
            f"expected a Bijection, Flow or Dequantized, got {type(model).__name__}; unwrap the "
            "model first"
        )
    layers = _data_dependent(model)
    kept = tuple(name for name, layer in layers.items() if bool(layer.initialized))
    if layers and len(kept) == len(layers):
        raise RuntimeError(
            f"expected a model that is not initialized, got one with all {len(kept)} layers set; "
            "call reset_initialization(model) to set them again"
        )
    if not true_on_all_ranks(torch.isfinite(x)):
        raise ValueError("expected a batch of finite values to initialize on, got NaN or infinity")
    with torch.no_grad():
        output = model.initialize(x, context=context)
    fresh = tuple(name for name in layers if name not in kept)
    return InitializationReport(fresh, kept, float(output.mean()), float(output.std()))


def reset_initialization(model: nn.Module) -> None:
    """Forget that data-dependent parameters were set, so that `initialize` sets them again."""
    for layer in _data_dependent(model).values():
        layer.reset_initialization()


def _data_dependent(model: nn.Module) -> dict[str, DataDependent]:
    return {name: m for name, m in model.named_modules() if isinstance(m, DataDependent)}
