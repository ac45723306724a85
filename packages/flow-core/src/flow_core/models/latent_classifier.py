"""Classes told from the whole latent of a bijection, which is a density as well.

Source: Behrmann et al. 2021 (Understanding and mitigating exploding inverses), §5.2 and released
code.
"""

import math
from typing import TYPE_CHECKING, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.base import BaseDistribution, StandardNormal
from flow_core.bijection import Bijection, require_bijection
from flow_core.settings import Settings
from flow_core.torch_base import Base, as_base


class Latents(NamedTuple):
    """What one pass of a `LatentClassifier` gives.

    Attributes:
        z: Latents.
        log_det: log|det ∂z/∂x|, or None where it was not asked for.
        logits: Of the classes.
    """

    z: Float[Tensor, " batch *latent"]
    log_det: Float[Tensor, " batch"] | None
    logits: Float[Tensor, "batch classes"]


@final
class LatentClassifier(nn.Module):
    """Logits from z = bijection.transform(x): batch normalisation, rectifier, one linear layer.

    Args:
        bijection: Of x.
        base: p(z), or None for N(0, I): with it the bijection is a density, which
            `flow_core.density_penalty` may ask for beside the classes.
        shape: Of one z.
        classes: Number of classes.
        values: How many values of z the logits are made of, the first ones; all unless given.

    Raises:
        TypeError: If the bijection or the base is none.
        ValueError: If there are fewer than two classes, or not so many values.
    """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, *, using: Settings | None = None) -> Tensor:
            """Same as `forward`."""
            ...

    def __init__(
        self,
        bijection: Bijection,
        shape: tuple[int, ...],
        classes: int,
        *,
        base: Base | None = None,
        values: int | None = None,
    ) -> None:
        require_bijection("bijection", bijection)
        super().__init__()
        size = math.prod(shape)
        self.values = size if values is None else values
        if classes < 2 or not 0 < self.values <= size:
            raise ValueError(
                f"expected at least two classes and 1 to {size} values, got {classes} and {values}"
            )
        self.bijection = bijection
        self.base: BaseDistribution = StandardNormal(shape) if base is None else as_base(base)
        self.norm = nn.BatchNorm1d(self.values)
        self.logits = nn.Linear(self.values, classes)

    def forward(
        self, x: Float[Tensor, " batch *event"], *, using: Settings | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Logits of x, without any log-determinant."""
        return self.told(self.bijection.transform(x, using=using))

    def latents(
        self, x: Float[Tensor, " batch *event"], *, log_det: bool, using: Settings | None = None
    ) -> Latents:
        """Latents and logits of x from one pass, with or without the log-determinant."""
        if not log_det:
            z, found = self.bijection.transform(x, using=using), None
        else:
            z, found = self.bijection.transform_and_log_det(x, using=using)
        return Latents(z, found, self.told(z))

    def told(self, z: Float[Tensor, " batch *latent"]) -> Float[Tensor, "batch classes"]:
        """Logits of latents."""
        logits: Tensor = self.logits(self.norm(z.flatten(1)[:, : self.values]).relu())
        return logits

    @torch.no_grad()
    def initialize(self, x: Float[Tensor, " batch *event"]) -> None:
        """Set what depends on data from a batch: the bijection, with the nets inside of it."""
        self.bijection.initialize(x)
