"""Trained monotone blocks to measure on.

`data/trained_blocks.npz` holds eight lightly trained blocks: `2d_b0` to `2d_b3` (2-D, two spirals,
growth 16) and `img_b0` to `img_b3` (3x32x32 and 12x16x16, growth 32), each with its effective
weights and 256 points or 16 images as they enter the block.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from flow_core.lipschitz import make_activation
from flow_core.maps import BoundNet
from flow_core.maps.bound_activation import bind_activation
from flow_core.maps.effective import input_scales
from flow_core.maps.joins import CONCATENATE
from flow_solvers import resolvent
from torch import Tensor

DATA = Path(__file__).parent / "data" / "trained_blocks.npz"
PLANE = ("2d_b0", "2d_b1", "2d_b2", "2d_b3")
IMAGES = ("img_b0", "img_b1", "img_b2", "img_b3")

_LAYERS = ("layer0", "layer1", "layer2", "last")


@dataclass(frozen=True)
class Block:
    """A contraction G and right-hand sides of w + G(w) = rhs.

    Attributes:
        bound: G.
        rhs: √2·x, where x are the block's inputs.
    """

    bound: BoundNet
    rhs: Tensor

    @property
    def dim(self) -> int:
        """Numbers per sample."""
        return self.rhs[0].numel()

    def double(self) -> "Block":
        """The same block in float64."""
        bound = self.bound.with_tensors([t.double() for t in self.bound.tensors()])
        return Block(bound, self.rhs.double())

    def scaled(self, factor: float) -> "Block":
        """The block with the map factor·G."""
        weights, biases = self.bound.weights, self.bound.biases
        bound = replace(
            self.bound,
            weights=(*weights[:-1], factor * weights[-1]),
            biases=(*biases[:-1], factor * biases[-1]),
        )
        return Block(bound, self.rhs)

    def stressed(self, norm: float) -> "Block":
        """The block with G scaled so that the largest sampled ‖J‖₂ is `norm`."""
        return self.scaled(norm / largest_norm(self))


def load_block(name: str) -> Block:
    """A block by its name in `PLANE` or `IMAGES`.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in (*PLANE, *IMAGES):
        raise ValueError(f"expected one of {', '.join((*PLANE, *IMAGES))}; got {name!r}")
    weights = [_array(f"{name}.{layer}.weight") for layer in _LAYERS]
    scales = input_scales([w.shape[1] for w in weights], _array(f"{name}.eta").unsqueeze(0))
    scaled = [w * s.view(1, -1, *(1,) * (w.ndim - 2)) for w, s in zip(weights, scales, strict=True)]
    activation = bind_activation(make_activation("cpila"))
    bound = BoundNet(
        weights=tuple(scaled),
        biases=tuple(_array(f"{name}.{layer}.bias") for layer in _LAYERS),
        activations=(activation,) * (len(_LAYERS) - 1),
        join=CONCATENATE,
    )
    return Block(bound, 2**0.5 * _array(f"{name}.input"))


@torch.no_grad()
def largest_norm(block: Block, iterations: int = 60) -> float:
    """The largest ‖J(w)‖₂ over the solutions w, by power iteration on JᵀJ."""
    w = resolvent(block.bound, block.rhs).value
    linearization = block.bound.linearize(w)
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(w.shape, generator=generator, dtype=w.dtype)
    norms = w.new_ones(len(w))
    for _ in range(iterations):
        vector = linearization.vjp(linearization.jvp(vector))
        norms = vector.flatten(1).norm(dim=1)
        vector = vector / norms.view(-1, *[1] * (w.ndim - 1))
    return float(norms.sqrt().max())


def _array(key: str) -> Tensor:
    return _arrays()[key].clone()


@cache
def _arrays() -> dict[str, Tensor]:
    with np.load(DATA) as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}
