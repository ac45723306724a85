"""Training of invertible models, whose Lipschitz constants are kept where they have to be."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace

from flow_core.bijection import Bijection
from flow_core.lipschitz import lipschitz_certificate, repair_lipschitz, update_lipschitz
from flow_core.maps import DenseNet
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.contraction import ContractionConfig
from flow_apps.training import Objective

_ROUNDTRIP_POINTS = 1000


class InvertibleObjective(Objective):
    """An objective whose model is invertible, and stays so.

    Args:
        contraction: How Lipschitz constants are kept, where layers have them.

    Attributes:
        unit: Name of its figure of merit: nats, bits_per_dim or mse.
        using: What the model does its work with.
    """

    unit: str

    def __init__(self, contraction: ContractionConfig) -> None:
        super().__init__()
        self.contraction = contraction
        self.using = Settings()

    def compile_model(self, batch_size: int) -> None:
        """Compile the maps for training batches; everything else runs eager."""
        self.using = replace(self.using, compiled=frozenset([batch_size]))

    def before_optimizer_step(self, step: int) -> None:
        """Let the weights of concatenations rest until their time comes."""
        if step < self.contraction.learn_concat_from:
            for net in self._dense_nets():
                net.concat.grad = None

    def after_optimizer_step(self, step: int) -> None:
        """Let the singular vectors follow the weights."""
        update_lipschitz(self.model, self.contraction.power_iterations)

    def prepare_test(self) -> None:
        """Know spectral norms well before a test."""
        update_lipschitz(self.model, self.contraction.test_power_iterations)

    def repair(self) -> Mapping[str, float]:
        """Scale maps down whose certified Lipschitz bound is not below 1."""
        bounds = lipschitz_certificate(self.model)
        lost = {name: bound for name, bound in bounds.items() if not bound < 1}
        if lost:
            repair_lipschitz(self.model)
        return lost

    @property
    @abstractmethod
    def bijection(self) -> Bijection:
        """The invertible part of the model."""

    @abstractmethod
    def test_points(self, count: int) -> Float[Tensor, " count *event"]:
        """At most that many real test points, as the bijection takes them."""

    @abstractmethod
    def per_sample(self, split: str) -> Float[Tensor, " count"]:
        """The figure of merit of every sample of a split, lower is better."""

    def test(self, step: int) -> dict[str, float]:
        """Mean and standard error of the figure of merit over the test split."""
        return self.mean_and_error(self.per_sample("test"))

    def mean_and_error(self, per_sample: Float[Tensor, " count"]) -> dict[str, float]:
        """The result of a test from its figures per sample."""
        values = per_sample.double()
        error = float(values.std()) / len(values) ** 0.5
        return {f"test_{self.unit}": float(values.mean()), "standard_error": error}

    def audit(self) -> Mapping[str, object]:
        """Round trip in data space and certified bounds of every map."""
        return {
            "max_roundtrip_error": self.roundtrip_error(_ROUNDTRIP_POINTS),
            "lipschitz_bound": lipschitz_certificate(self.model),
        }

    def roundtrip_error(self, count: int) -> float:
        """Largest difference of x and its reconstruction, in data space."""
        x = self.test_points(count)
        y = self.bijection.transform(x, using=self.using)
        again = self.bijection.inverse(y, using=self.using)
        return float((again - x).abs().max())

    def _dense_nets(self) -> Iterator[DenseNet]:
        return (module for module in self.model.modules() if isinstance(module, DenseNet))
