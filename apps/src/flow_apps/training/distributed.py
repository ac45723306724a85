"""Several processes, each with its share of every batch, started by torchrun."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from flow_data import Share
from torch import Tensor

from flow_apps.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes:
        rank: Number of this process; number 0 writes files and talks.
        world: Number of processes.
        device: What this process computes on.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, batch_size: int) -> Share:
        """This process' part of every batch.

        Raises:
            ConfigError: If a batch does not divide evenly; the mean of means would be wrong.
        """
        if batch_size % self.world:
            raise ConfigError(
                f"batch_size: expected a multiple of the {self.world} processes, got {batch_size}"
            )
        return Share(self.rank, self.world)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any process raised it."""
        if self.world == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    def agree(self, number: int) -> int:
        """The number that the first process has."""
        if self.world == 1:
            return number
        agreed = torch.tensor(number, dtype=torch.int64, device=self.device)
        dist.broadcast(agreed, src=0)
        return int(agreed)

    def first(self, text: str | None) -> str:
        """The text of the first process that has one; it is the same for all of them."""
        found: list[str | None] = [text]
        if self.world > 1:
            found = [None] * self.world
            dist.all_gather_object(found, text)
        return next((text for text in found if text is not None), "")

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Scalars averaged over all processes, read in one transfer."""
        if not values:
            return {}
        stacked = torch.stack(
            [value.detach().double().to(self.device) for value in values.values()]
        )
        if self.world > 1:
            dist.all_reduce(stacked)
        means = (stacked / self.world).tolist()
        return dict(zip(values, means, strict=True))

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def ranks(device: str) -> Generator[Ranks, None, None]:
    """Join the processes that torchrun started, or be the only one.

    Raises:
        ConfigError: If the device is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = find_device(device)
    if world == 1:
        yield Ranks(0, 1, local)
        return
    if local.type == "cuda":
        local = find_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    # Objects are gathered on the CPU, whatever the tensors are on.
    dist.init_process_group("cpu:gloo,cuda:nccl" if local.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, local)
    finally:
        dist.destroy_process_group()


def find_device(name: str) -> torch.device:
    """The device of that name; a CUDA device becomes the current one, whose generator is seeded.

    Raises:
        ConfigError: If the device is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: expected cpu or cuda, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: expected cpu or cuda, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, but torch finds no CUDA device; use cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError(f"device: {name} was asked for, but there are {count} CUDA devices")
        torch.cuda.set_device(device)
    return device
