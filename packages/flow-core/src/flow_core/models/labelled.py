"""Images whose class chooses the top prior of their flow.

Source: Kingma & Dhariwal 2018, released code (`ycond`), and y0ast/Glow-PyTorch (`y_condition`).
"""

from typing import TYPE_CHECKING, NamedTuple, final

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from flow_core.channel_normal import ChannelNormal
from flow_core.dequantization import Dequantized
from flow_core.distributions import exact
from flow_core.layers import Sightings
from flow_core.passes import Pass
from flow_core.settings import Settings


class Labelled(NamedTuple):
    """What a `LabelledFlow` tells of a batch.

    Attributes:
        log_prob: Of x without a class, in nats; a bound as of `Dequantized.log_prob_bound`.
        log_prob_of_classes: Of x given every class.
        logits: Of the classes, by the linear layer.
    """

    log_prob: Float[Tensor, " batch"]
    log_prob_of_classes: Float[Tensor, "batch classes"]
    logits: Float[Tensor, "batch classes"]


@final
class LabelledFlow(nn.Module):
    """p(x | class) of integer images for every class, and a linear layer that tells classes.

    log p(x | k) = log p(x) + log p(z | k) − log p(z), as nothing but the distribution of z knows of
    classes. The layer sees the mean over the pixels of the last values of z, and begins as zero.

    Args:
        density: Of the images: its flow has a `ChannelNormal` of several classes as its base, and a
            landmark named latent at its end, as `FlowConfig(learn_top=True, classes=K)` makes it.

    Raises:
        ValueError: If the base is another, or of one class.
    """

    if TYPE_CHECKING:

        def __call__(
            self, x: Tensor, *, noise: Tensor | None = None, using: Settings | None = None
        ) -> Labelled:
            """Same as `forward`."""
            ...

    def __init__(self, density: Dequantized) -> None:
        super().__init__()
        base = density.flow.base
        if not isinstance(base, ChannelNormal) or len(base.mean) < 2:
            raise ValueError(f"expected a flow with a ChannelNormal of classes, got {base}")
        self.density = density
        self.logits = nn.Linear(base.top[0], len(base.mean))
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    @property
    def base(self) -> ChannelNormal:
        """The distribution of z, of which each class has one."""
        base = self.density.flow.base
        assert isinstance(base, ChannelNormal)
        return base

    def forward(
        self,
        x: Shaped[Tensor, "batch channels height width"],
        *,
        noise: Float[Tensor, "batch modelled height width"] | None = None,
        using: Settings | None = None,
    ) -> Labelled:
        """Log-likelihoods and logits of integer images; arguments as of `Dequantized`."""
        seen = Sightings()
        log_prob = self.density(x, noise=noise, how=Pass(exact(using), collector=seen))
        z = seen.take()["latent"]
        of_classes = self.base.log_prob_of_classes(z)
        rise = of_classes - self.base.log_prob(z).unsqueeze(1)
        _, top = self.base.parts(z)
        logits: Tensor = self.logits(top.flatten(2).mean(2))
        return Labelled(log_prob, log_prob.unsqueeze(1) + rise, logits)

    def initialize(
        self,
        x: Shaped[Tensor, "batch channels height width"],
        *,
        noise: Float[Tensor, "batch modelled height width"] | None = None,
    ) -> None:
        """Set what depends on data from a batch of integers."""
        self.density.initialize(x, noise=noise)
