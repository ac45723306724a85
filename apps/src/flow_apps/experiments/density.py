"""Objectives that maximise a likelihood, and what can be asked of them after training."""

from abc import abstractmethod
from pathlib import Path

from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.distributions import Flow
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.invertible import InvertibleObjective


class DensityObjective(InvertibleObjective):
    """A flow trained by maximum likelihood.

    Attributes:
        test_draws: Draws of the dequantisation noise in the final test.
    """

    test_draws: int = 1

    @property
    @abstractmethod
    def flow(self) -> Flow:
        """The distribution of real vectors or images."""

    @abstractmethod
    def log_likelihoods(self, split: str, draws: int) -> Float[Tensor, " count"]:
        """Log-likelihood of every sample of a split in nats, the mean over noise draws if any."""

    @abstractmethod
    def merit(self, log_likelihood: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
        """Log-likelihoods in the unit of the experiment, lower is better."""

    @abstractmethod
    def draw_samples(self, samples: Tensor, path: Path) -> None:
        """A picture of samples."""

    @property
    def bijection(self) -> Bijection:
        """The bijection of the flow."""
        return self.flow.bijection

    def per_sample(self, split: str) -> Float[Tensor, " count"]:
        """The figure of merit of every sample of a split."""
        return self.merit(self.log_likelihoods(split, self.test_draws))

    def sample(self, count: int, temperature: float = 1.0, using: Settings | None = None) -> Tensor:
        """Draw samples of the data space; a temperature below 1 gives more typical ones."""
        base = StandardNormal(self.flow.base.event_shape, temperature=temperature)
        device = next(self.model.parameters()).device
        flow = Flow(base.to(device), self.flow.bijection, self.flow.event_shape)
        return flow.sample((count,), using=self.using if using is None else using)
