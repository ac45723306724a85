"""Where numbers stopped being numbers, or a solver gave up."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import cast

import torch
from flow_solvers import SolverError
from torch import Tensor, nn

from flow_apps.errors import TrainingFailure
from flow_apps.training.parts import Batch, Loss

_SHOWN = 8


@contextmanager
def solver_failures(step: int, activity: str) -> Generator[None, None, None]:
    """Turn a solver's failure into one that names the step, the layer and the samples.

    Raises:
        TrainingFailure: If a solver fails inside.
    """
    try:
        yield
    except SolverError as error:
        layer = ", ".join(getattr(error, "__notes__", [])) or "in an unnamed layer"
        samples = _listed(error.indices)
        raise TrainingFailure(
            f"step {step}, {activity}: a solver failed {layer}, samples {samples}: {error}"
        ) from error


def explain_inputs(batch: Batch, step: int) -> TrainingFailure | None:
    """The failure to report if the data themselves are not numbers."""
    for name, value in batch._asdict().items():
        if isinstance(value, Tensor) and (bad := _bad_samples(value)).numel():
            return TrainingFailure(
                f"step {step}: {name} of the batch is not finite in samples {_listed(bad)}; "
                "clean the data"
            )
    return None


def explain_nonfinite(loss: Loss, batch: Batch, turn: str, step: int) -> str:
    """Why the loss of a step is not finite: bad weights, or the first bad layer."""
    prefix = f"step {step}: the loss is not a finite number"
    for name, parameter in loss.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"{prefix}: parameter {name} is not finite since an earlier step"
    return f"{prefix}: {_first_bad_layer(loss, batch, turn)}"


def diverged(step: int, problem: object) -> TrainingFailure:
    """What to say of numbers that training itself spoilt."""
    return TrainingFailure(
        f"step {step}: {problem}; the checkpoints before this step are good: go on with --resume "
        "and a lower --lr, or --set gradient_clip=1"
    )


def require_finite_weights(loss: Loss, step: int) -> None:
    """Refuse to keep weights that are not numbers.

    Raises:
        TrainingFailure: Naming the first such parameter.
    """
    # One number for all of them: reading one for each would take longer than a step of small nets.
    if bool(torch.isfinite(nn.utils.get_total_norm(loss.parameters(), foreach=True))):
        return
    for name, parameter in loss.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise diverged(step, f"parameter {name} is not finite")


def explain_gradient(loss: Loss) -> str:
    """Why the norm of a gradient is not finite."""
    for name, parameter in loss.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"the gradient of parameter {name} is not finite"
    return "the norm of the gradient overflows"


def _first_bad_layer(loss: Loss, batch: Batch, turn: str) -> str:
    """Run once more and watch every layer."""
    found: list[str] = []
    handles = [
        module.register_forward_hook(_watch(name, found))
        for name, module in loss.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            loss.forward(batch, turn)
    except SolverError as error:
        found.append(f"a solver failed, samples {_listed(error.indices)}")
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "every layer is finite, the loss itself overflows"


def _watch(name: str, found: list[str]) -> Callable[[nn.Module, object, object], None]:
    def hook(_module: nn.Module, _inputs: object, outputs: object) -> None:
        """Note the layer if its output has bad samples."""
        tensors = cast(tuple[object, ...], outputs if isinstance(outputs, tuple) else (outputs,))
        for tensor in tensors:
            if isinstance(tensor, Tensor) and (bad := _bad_samples(tensor)).numel():
                samples = _listed(bad)
                found.append(f"layer {name} is the first without finite output, samples {samples}")

    return hook


def _bad_samples(tensor: Tensor) -> Tensor:
    """The rows of a tensor that hold anything but finite numbers."""
    if not tensor.ndim:
        return tensor.new_empty(0)
    return (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero().flatten()


def _listed(indices: Tensor) -> str:
    values = [int(i) for i in indices.flatten()[:_SHOWN].tolist()]
    more = indices.numel() - len(values)
    return f"{values}" + (f" and {more} more" if more > 0 else "")
