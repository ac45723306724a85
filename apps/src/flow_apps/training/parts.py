"""What an experiment is made of: data, a model and its loss, upkeep, tests and figures.

They are put together, not inherited from each other: an experiment takes the parts that others have
too and writes those that are its own. The engine sees these types and nothing else.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from flow_core.diagnostics import Diagnostics
from flow_data import ImageSplits, Share
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from flow_apps.config.run import ConfigOfRun
from flow_apps.training.sharing import Workers

Scalars = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


class Batch(NamedTuple):
    """Samples of one step.

    Attributes:
        x: The samples.
        y: Labels or targets, or None.
        noise: Uniform numbers in [0, 1) of the shape of x, where the loss needs noise: they follow
            the sample, whatever process it goes to.
        step: The number of the step, from 1; 0 for samples that are of none.
    """

    x: Shaped[Tensor, " batch *sample"]
    y: Shaped[Tensor, " batch *target"] | None = None
    noise: Float[Tensor, " batch *sample"] | None = None
    step: int = 0

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        x = self.x.to(device, non_blocking=True)
        y = None if self.y is None else self.y.to(device, non_blocking=True)
        noise = None if self.noise is None else self.noise.to(device, non_blocking=True)
        return Batch(x, y, noise, self.step)

    def part(self, share: Share) -> "Batch":
        """The samples of a share."""
        y = None if self.y is None else share.of(self.y)
        noise = None if self.noise is None else share.of(self.noise)
        return Batch(share.of(self.x), y, noise, self.step)


def joined(batches: Sequence[Batch]) -> Batch:
    """The samples of several steps as a batch that is of none."""
    if len(batches) == 1:
        return batches[0]
    x, y, noise = (
        None if any(part is None for part in parts) else torch.cat([*parts])
        for parts in zip(*(batch[:3] for batch in batches), strict=True)
    )
    assert x is not None
    return Batch(x, y, noise)


@runtime_checkable
class Data(Protocol):
    """Where the batches of a run come from."""

    def batch(self, step: int, share: Share) -> Batch:
        """A share of the samples of a step, on the CPU: a function of step and share alone."""
        ...


class Loss(nn.Module, ABC):
    """A model and what it is trained on: the one module that DDP sees.

    Args:
        model: What is trained; its moving average is what is tested where there is one.
    """

    if TYPE_CHECKING:

        def __call__(self, batch: Batch, turn: str = "") -> tuple[Tensor, Scalars]:
            """Same as `forward`."""
            ...

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def forward(self, batch: Batch, turn: str = "") -> tuple[Float[Tensor, ""], Scalars]:
        """The loss of a turn, and named scalars for the log that need no gradient.

        Args:
            batch: Samples, on the device of the model.
            turn: Which optimizers are going to take a step on it, see `OptimizerConfig`.
        """

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data, from a share of the first batch; nothing unless overridden."""

    def after_optimizer_step(self) -> None:
        """Let weights of terms follow what `forward` found; nothing unless overridden."""


@dataclass(frozen=True)
class Certificate:
    """What is proven about the weights that a test is of.

    Attributes:
        bounds: Of the Lipschitz constants of all maps that must be contractions, by their names;
            below 1.
        repaired: The bounds that maps had which were changed for that.
    """

    bounds: Mapping[str, float] = field(default_factory=dict[str, float])
    repaired: Mapping[str, float] = field(default_factory=dict[str, float])

    def row(self) -> dict[str, object]:
        """For the log: the largest bound, whose it is, and what had to be changed."""
        if not self.bounds:
            return {}
        widest = max(self.bounds, key=lambda name: self.bounds[name])
        told: dict[str, object] = {
            "lipschitz_bound": self.bounds[widest],
            "lipschitz_bound_of": widest,
        }
        return {**told, "repaired": dict(self.repaired)} if self.repaired else told

    def summary(self) -> dict[str, object]:
        """For the summary of a run."""
        bounds: dict[str, object] = {"lipschitz_bound": dict(self.bounds)} if self.bounds else {}
        return {"repaired": dict(self.repaired), **bounds}


class Upkeep:
    """What keeps the promises of a model while it is trained; this one has nothing to do."""

    def before_optimizer_step(self, step: int) -> None:
        """Change gradients."""

    def after_optimizer_step(self, step: int) -> None:
        """Restore what must hold for the new weights."""

    def prepare_test(self) -> None:
        """Make the weights ready for tests; whatever it changes is put back after them."""

    def certify(self) -> Certificate:
        """Prove what a result promises, and make it so; what it changes is put back after the test.

        Raises:
            TrainingFailure: If it cannot be made so.
        """
        return Certificate()


@dataclass(frozen=True)
class Tested:
    """The result of a final test.

    Attributes:
        name: Of the file of `values`.
        values: What is told of every sample.
        unit: Of `merit`: nats, bits_per_dim, mse, …
        merit: The figure of merit of every sample, lower is better.
        further: What else is told of every sample, by its name.
    """

    __test__ = False  # pytest would take its name for that of a test

    name: str
    values: Float[Tensor, " count"]
    unit: str
    merit: Float[Tensor, " count"]
    further: Mapping[str, Float[Tensor, " count"]] = field(default_factory=dict[str, Tensor])

    def summary(self) -> dict[str, float]:
        """Mean and standard error of the figure of merit, and means of what else is told."""
        merit = self.merit.double()
        error = float(merit.std()) / len(merit) ** 0.5
        means = {f"test_{name}": float(v.double().mean()) for name, v in self.further.items()}
        return {f"test_{self.unit}": float(merit.mean()), "standard_error": error, **means}


class Tests(ABC):
    """How good a model is. Every method runs without gradients, on weights as they are tested.

    Attributes:
        splits: What `evaluate` is asked for during training.
        selection: Split and metric by which the best weights are chosen, lower is better; None
            where the last weights are the result.
    """

    __test__ = False  # pytest would take its name for that of a test

    splits: Sequence[str] = ("validation", "test")
    selection: tuple[str, str] | None = None

    @abstractmethod
    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        """Scalars for the log; samples are shared out by `workers`."""

    @abstractmethod
    def test(self, workers: Workers) -> Tested:
        """The final test; samples are shared out by `workers`."""

    def about(self) -> Mapping[str, object]:
        """What its samples are, for whoever reads the results; nothing unless overridden."""
        return {}

    def audit(self) -> Mapping[str, object]:
        """What else the summary tells about the final weights; nothing unless overridden."""
        return {}

    def diagnose(self) -> Diagnostics | None:
        """What `evaluate.py` tells besides; nothing unless overridden."""
        return None


@runtime_checkable
class Figures(Protocol):
    """Pictures of a run."""

    def draw(self, folder: Path, step: int) -> None:
        """Draw pictures into a folder, without changing any state."""
        ...


@dataclass(frozen=True)
class Parts:
    """An experiment, ready to be trained.

    Attributes:
        data: Where batches come from.
        loss: The model and what it is trained on.
        tests: How good it is.
        figures: Pictures, or None.
    """

    data: Data
    loss: Loss
    tests: Tests
    figures: Figures | None = None


def _unchanged(config: ConfigOfRun) -> ConfigOfRun:
    return config


def _no_upkeep(_config: object, _model: nn.Module) -> Upkeep:
    return Upkeep()


@dataclass(frozen=True)
class Builders(Generic[ConfigOfRun, Model]):
    """How an experiment is made from its config.

    Attributes:
        model: Makes the model from the config alone; what it draws follows from the seed.
        parts: Loads the data and puts the parts together around the model, which is on its device.
            The last argument are batch sizes for which training may use torch.compile; where there
            are none, it must not.
        upkeep: Makes what keeps the promises of the model, in training and after loading; nothing
            where it has none to keep.
        resolve: Fills in what only the data can tell, so that the model needs the config alone.
        draw_samples: Draws a picture of samples; None where there is nothing to sample.
        images: Reads the integer images of a run whose model is a distribution of them; None for
            other models.
    """

    model: Callable[[ConfigOfRun], Model]
    parts: Callable[[ConfigOfRun, Model, frozenset[int]], Parts]
    upkeep: Callable[[ConfigOfRun, Model], Upkeep] = _no_upkeep
    resolve: Callable[[ConfigOfRun], ConfigOfRun] = _unchanged
    draw_samples: Callable[[Tensor, Path], None] | None = None
    images: Callable[[ConfigOfRun], ImageSplits] | None = None
