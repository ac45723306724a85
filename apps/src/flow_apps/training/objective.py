"""What is trained: the one thing that the engine, DDP and torch.compile see."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

Batch = tuple[Tensor, ...]


class Objective(nn.Module, ABC):
    """A model together with its loss, its data and its tests.

    Attributes:
        splits: What `evaluate` is asked for during training.
        selection: Split and metric by which the best weights are chosen, lower is better; None
            where the last weights are the result.
    """

    splits: Sequence[str] = ("validation", "test")
    selection: tuple[str, str] | None = None

    if TYPE_CHECKING:

        def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            """Same as `forward`."""
            ...

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What is trained; its moving average is what is tested where there is one."""

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss and named scalars for the log, as tensors that need no gradient."""

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """The samples of a step on the CPU, over all processes; a function of the step alone."""

    @abstractmethod
    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Scalars for the log that tell how good the model is; runs without gradients."""

    @abstractmethod
    def test(self, step: int) -> dict[str, float]:
        """The result of a run for summary.json: a `test_…` value and its `standard_error`."""

    def audit(self) -> Mapping[str, object]:
        """What else the summary tells about the final weights; nothing unless overridden."""
        return {}

    def initialize(self, batch: Batch) -> None:
        """Set what depends on data, from the first batch; nothing unless overridden."""

    def compile_model(self, batch_size: int) -> None:
        """Compile what is worth it for batches of this size; the whole forward by default."""
        self.compile()

    def before_optimizer_step(self, step: int) -> None:
        """Change gradients; nothing unless overridden."""

    def after_optimizer_step(self, step: int) -> None:
        """Restore what must hold for the new weights; nothing unless overridden."""

    def repair(self) -> Mapping[str, float]:
        """Make the result hold what it promises; nothing unless overridden.

        Whatever it changes is put back after the test.

        Returns:
            What had to be changed, with the bound that was lost.
        """
        return {}

    def prepare_test(self) -> None:
        """Make the weights ready for tests; whatever it changes is put back after them."""

    def figures(self, folder: Path, step: int) -> None:
        """Draw pictures into a folder, without changing any state; none unless overridden."""
