"""Work that the processes of a run share out among themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from flow_apps.errors import TrainingFailure
from flow_apps.training.distributed import Ranks
from flow_apps.training.progress import AdvanceJob
from flow_apps.training.randomness import isolated

Job = TypeVar("Job")


def silent(_what: str, _done: int, _total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Workers:
    """All processes of a run, for work that comes in independent jobs.

    A job draws the same random numbers whichever process does it, so results do not depend on how
    many processes there are.

    Attributes:
        ranks: This process among all.
        seed: Numbers and words that random numbers follow from.
        advance: Told what is done, how many jobs of it, and of how many.
    """

    ranks: Ranks
    seed: tuple[int | str, ...]
    advance: AdvanceJob = silent

    def each(self, what: str, jobs: Sequence[Job], function: Callable[[Job], Tensor]) -> Tensor:
        """The results of all jobs one after the other, on every process.

        Args:
            what: What the jobs are, for people and for the random numbers.
            jobs: The same on every process.
            function: Gives a tensor with a sample in each row.

        Raises:
            TrainingFailure: If another process failed; its own failure is raised as it is.
        """
        ranks, results, failure = self.ranks, list[Tensor](), None
        try:
            for index in range(ranks.rank, len(jobs), ranks.world):
                with isolated(ranks.device, *self.seed, what, index):
                    results.append(function(jobs[index]))
                self.advance(what, index + 1, len(jobs))
        except Exception as error:  # whatever it is, the other processes must not wait for ever
            failure = error
        (failed,) = ranks.any(failure is not None)
        if failure is not None:
            raise failure
        if failed:
            raise TrainingFailure(f"{what}: another process failed, see its message")
        return torch.cat(results if ranks.world == 1 else self._gathered(results, len(jobs)))

    def _gathered(self, results: list[Tensor], count: int) -> list[Tensor]:
        """The results of every process, in the order of the jobs."""
        world = self.ranks.world
        found: list[list[Tensor] | None] = [None] * world
        dist.all_gather_object(found, [result.cpu() for result in results])
        parts = cast(list[list[Tensor]], found)
        device = self.ranks.device
        return [parts[index % world][index // world].to(device) for index in range(count)]
