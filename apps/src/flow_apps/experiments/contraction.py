"""Training of models whose layers must stay contractions."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from flow_core.bijection import Bijection
from flow_core.blocks import Solve
from flow_core.lipschitz import lipschitz_certificate, repair_lipschitz, update_lipschitz
from flow_core.maps import DenseNet, compile_maps
from flow_solvers import Tolerance
from jaxtyping import Float
from torch import Tensor

from flow_apps.training import Objective, require

_ROUNDTRIP_POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class ContractionConfig:
    """How Lipschitz constants are kept, and what a failed solve does.

    Attributes:
        coeff: Bound on the spectral norm of every layer, below 1.
        concat_bound: Bound on the weights of a concatenation, at most 1.
        learn_concat_from: First step that changes the weights of the concatenations.
        power_iterations: Power iterations of convolutions after every step; the spectral norms of
            matrices are exact at all times.
        test_power_iterations: Power iterations of convolutions before every test.
        rtol: Relative tolerance of every solve, see `flow_solvers.Tolerance`; None for its default.
        on_solver_failure: End the run, or go on with the best iterate and count the failure.
    """

    coeff: float = 0.9
    concat_bound: float = 0.98
    learn_concat_from: int = 25_000
    power_iterations: int = 5
    test_power_iterations: int = 200
    rtol: float | None = None
    on_solver_failure: Literal["raise", "return"] = "raise"

    def __post_init__(self) -> None:
        coeff, concat = self.coeff, self.concat_bound
        require(0 < coeff < 1, f"coeff: expected between 0 and 1, exclusive, got {coeff}")
        require(0 < concat <= 1, f"concat_bound: expected in (0, 1], got {concat}")
        for name in ("power_iterations", "test_power_iterations"):
            value = getattr(self, name)
            require(value > 0, f"{name}: expected a positive integer, got {value}")
        rtol = self.rtol
        require(rtol is None or 0 < rtol < 1, f"rtol: expected between 0 and 1, got {rtol}")

    def solve(self) -> Solve:
        """Settings of the solves of a block."""
        return Solve(tolerance=Tolerance(self.rtol), on_failure=self.on_solver_failure)


def require_spread(test_size: int) -> None:
    """Refuse a test that can have no standard error.

    Raises:
        ConfigError: If it has fewer than two samples.
    """
    require(test_size > 1, f"test_size: expected at least 2 for a standard error, got {test_size}")


class ContractiveObjective(Objective):
    """An objective whose model is invertible because spectral norms are kept below 1.

    Args:
        contraction: How Lipschitz constants are kept.

    Attributes:
        unit: Name of its figure of merit: nats, bits_per_dim or mse.
    """

    unit: str

    def __init__(self, contraction: ContractionConfig) -> None:
        super().__init__()
        self.contraction = contraction

    def compile_model(self, batch_size: int) -> None:
        """Compile the maps for training batches; everything else runs eager."""
        compile_maps(self.model, [batch_size])

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
        again = self.bijection.inverse(self.bijection.transform(x))
        return float((again - x).abs().max())

    def _dense_nets(self) -> Iterator[DenseNet]:
        return (module for module in self.model.modules() if isinstance(module, DenseNet))
