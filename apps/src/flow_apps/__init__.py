"""Training, evaluation and sampling of fixed-point flows, and their models from Python."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from flow_core import Dequantized, Flow
    from torch import nn

__all__ = ["load_flow", "load_model"]


def load_flow(
    run_folder: Path | str,
    checkpoint: Literal["last", "best"] = "best",
    device: str = "cpu",
) -> "Flow | Dequantized":
    """The trained distribution of a run, in evaluation mode; its data are not needed.

    Of a fit of a function it is the flow whose bijection is the fit; of a hybrid it is the
    distribution of the images, without the classes, which `load_model` has too.

    Args:
        run_folder: The folder that training wrote, or that an import of a published checkpoint did.
        checkpoint: The weights that were best on validation, or the last ones; a run that chooses
            none has its last ones for both.
        device: Where to put it.

    Raises:
        AppError: If there is no such run, its checkpoint is missing, damaged or of another run, or
            its model is no distribution.
    """
    from flow_apps import loading  # noqa: PLC0415 (imports torch)

    return loading.load_flow(Path(run_folder), checkpoint=checkpoint, device=device)


def load_model(
    run_folder: Path | str,
    checkpoint: Literal["last", "best"] = "best",
    device: str = "cpu",
) -> "nn.Module":
    """The trained model of a run, whatever it is; otherwise as `load_flow`.

    Raises:
        AppError: If there is no such run, or its checkpoint is missing, damaged or of another run.
    """
    from flow_apps import loading  # noqa: PLC0415 (imports torch)

    return loading.load_run(Path(run_folder), checkpoint=checkpoint, device=device).model
