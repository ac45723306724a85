"""Permutations that depend on nothing but a seed: not on a library version, device or global state.

The generators of torch and numpy do not promise the same permutation in every release, and a data
split must not move when a dependency is updated. Keys are the outputs of SplitMix64 (Steele, Lea
and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), which can be computed at
any position without state.
"""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(state: int, positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Outputs of a SplitMix64 generator started at `state`, at any positions (the first is 0)."""
    z = np.uint64(state & _MASK) + (positions + np.uint64(1)) * np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def permutation(count: int, *, seed: int, stream: int = 0) -> Int[Tensor, " count"]:
    """A permutation of `range(count)` fixed by `(seed, stream)`.

    Args:
        count: Number of elements.
        seed: Any integer; taken modulo 2⁶⁴.
        stream: Distinguishes independent permutations of one seed, an epoch for example.

    Returns:
        int64 indices on the CPU.
    """
    state = int(splitmix64(seed, np.array([stream & _MASK], dtype=np.uint64))[0])
    keys = splitmix64(state, np.arange(count, dtype=np.uint64))
    return torch.from_numpy(np.argsort(keys, kind="stable").astype(np.int64))
