"""Random numbers that follow from the seed and the step, so that nothing has to be stored.

A run that is resumed at a step draws what the uninterrupted run draws there.
"""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch


def derive_seed(*parts: int | str) -> int:
    """A seed that follows from numbers and words, different for different ones."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generator(*parts: int | str) -> torch.Generator:
    """A generator of its own on the CPU, seeded from numbers and words."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed the default generators for a step.

    Noise and probes are drawn on the device, and are others on every process. Beside an accelerator
    the CPU's generator is equal on all of them: lengths of series are drawn there, and processes
    whose lengths differ would wait for each other.
    """
    of_rank = derive_seed(seed, "step", step, rank)
    if device.type == "cuda":
        torch.default_generator.manual_seed(derive_seed(seed, "step", step))
        torch.cuda.manual_seed(of_rank)
    else:
        torch.default_generator.manual_seed(of_rank)


@contextmanager
def isolated(device: torch.device, *parts: int | str) -> Generator[None, None, None]:
    """Seed the default generators from numbers and words, and put them back afterwards."""
    cuda = [device.index or torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(derive_seed(*parts))
        if cuda:
            torch.cuda.manual_seed(derive_seed(*parts))
        yield
