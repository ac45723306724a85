"""Objectives that maximise a likelihood, and what can be asked of them after training."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from flow_core.base import StandardNormal
from flow_core.distributions import Flow
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.contraction import ContractiveObjective

_ROUNDTRIP_POINTS = 1000


class DensityObjective(ContractiveObjective):
    """A flow trained by maximum likelihood.

    Attributes:
        unit: Name of its figure of merit: nats or bits_per_dim.
        test_draws: Draws of the dequantisation noise in the final test.
    """

    unit: str
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
    def test_points(self, count: int) -> Float[Tensor, " count *event"]:
        """Real test points for round trips, in the flow's space."""

    @abstractmethod
    def draw_samples(self, samples: Tensor, path: Path) -> None:
        """A picture of samples."""

    def sample(self, count: int, temperature: float = 1.0) -> Tensor:
        """Draw samples of the data space; a temperature below 1 gives more typical ones."""
        base = StandardNormal(self.flow.base.event_shape, temperature=temperature)
        device = next(self.model.parameters()).device
        flow = Flow(base.to(device), self.flow.bijection, self.flow.event_shape)
        return flow.sample((count,))

    def test(self, step: int) -> dict[str, float]:
        """Mean and standard error of the figure of merit over the test split."""
        values = self.merit(self.log_likelihoods("test", self.test_draws)).double()
        error = float(values.std()) / len(values) ** 0.5
        return {f"test_{self.unit}": float(values.mean()), "standard_error": error}

    def audit(self) -> Mapping[str, object]:
        """Round trip in data space and certified bounds."""
        return {
            "max_roundtrip_error": self.roundtrip_error(_ROUNDTRIP_POINTS),
            "lipschitz_bound": dict(self.certificates()),
        }

    def roundtrip_error(self, count: int) -> float:
        """Largest difference of x and its reconstruction, in data space."""
        x = self.test_points(count)
        z = self.flow.bijection.transform(x)
        return float((self.flow.bijection.inverse(z) - x).abs().max())
