"""The weights that are tested: the moving average where there is one."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flow_apps.training.parts import Upkeep


def moving_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """An exponential average of a model's parameters, starting at their present values, or None."""
    if decay is None:
        return None
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call] # torch has no types here
    average = AveragedModel(model, multi_avg_fn=update)
    average.update_parameters(model)
    return average


@contextmanager
def tested_weights(
    model: nn.Module, upkeep: Upkeep, average: AveragedModel | None
) -> Generator[None, None, None]:
    """Prepare a model for tests, and put every parameter and buffer back afterwards.

    Training therefore does not depend on when it was tested.
    """
    tensors = [*model.parameters(), *model.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    if average is not None:
        _copy(average.module.parameters(), model.parameters())
    model.eval()
    try:
        upkeep.prepare_test()
        yield
    finally:
        _copy(kept, tensors)
        model.train()


def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
