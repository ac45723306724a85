"""What a backward pass has in place of the activations of the layers."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from flow_solvers import require_integer

OnDrift = Literal["raise", "warn"]


@dataclass(frozen=True)
class Checkpointed:
    """Inputs of layers are kept, and what lies between them is computed again.

    Exact, for one more forward pass. Memory grows with the number of layers, by one sample of
    their input for every `every` of them. Source: Chen et al. 2016, §4.

    Attributes:
        every: Layers that are computed again at once: fewer inputs are kept, and more of what lies
            between them is there at the same time. About the root of their number needs least.

    Raises:
        ValueError: `every` is no number of layers.
    """

    every: int = 1

    def __post_init__(self) -> None:
        require_integer("every", self.every, 1)


@dataclass(frozen=True)
class Reversible:
    """Only the last output is kept; inputs are computed from it, layer by layer, by inversion.

    For one more forward pass and one inverse pass, in memory that does not depend on the number of
    layers. As exact as the inverses: where these lose the input, gradients are wrong, which is
    looked for. Of every input a few numbers per sample are kept, its products with fixed random
    signs r: (⟨r, x'⟩ − ⟨r, x⟩)² is ‖x' − x‖² in the mean.
    Source: Gomez et al. 2017; Behrmann et al. 2021, §5, for what goes wrong.

    Attributes:
        tolerance: Largest ‖x' − x‖/‖x‖ of the input x' that was computed for x, per sample; the
            norm of a small sample is at least the mean norm. None looks at nothing.
        on_drift: Raise `DriftError` for what is beyond it, or warn with a `DriftWarning`.
        check_every: Look at every so many layers; each look waits for the device.

    Raises:
        ValueError: If a field is out of its range.
    """

    tolerance: float | None = 1e-3
    on_drift: OnDrift = "raise"
    check_every: int = 1

    def __post_init__(self) -> None:
        require_integer("check_every", self.check_every, 1)
        tolerance = self.tolerance
        if tolerance is not None and not (tolerance > 0 and math.isfinite(tolerance)):
            raise ValueError(
                f"expected a positive tolerance, or None to look at nothing, got {tolerance}"
            )
        if self.on_drift not in get_args(OnDrift):
            raise ValueError(f'expected on_drift "raise" or "warn", got {self.on_drift!r}')


MemoryPolicy: TypeAlias = Checkpointed | Reversible
