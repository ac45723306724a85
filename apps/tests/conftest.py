"""A small problem for the engine, and engines that train it in a temporary folder."""

import os
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from flow_apps.cli import app
from flow_apps.config import OptimizerConfig, TrainingConfig, to_json
from flow_apps.importing.folder import DESCRIPTION, WEIGHTS
from flow_apps.importing.glow import GlowLayout, build_glow
from flow_apps.parts.image_sets import images_as_read
from flow_apps.training import (
    Batch,
    Engine,
    Loss,
    Parts,
    Ranks,
    RunFolder,
    Scalars,
    Tested,
    Tests,
    Upkeep,
    Workers,
    resume,
)
from flow_apps.training.files import write_json
from flow_apps.training.randomness import generator
from flow_core.layers import ActNorm
from flow_data import ImageSet, ImageSplits, Share
from flow_data.integrity import bytes_checksum
from safetensors.torch import save
from torch import Tensor, nn
from typer.testing import CliRunner, Result

Cli = Callable[..., Result]


def small_net(seed: int) -> nn.Sequential:
    """A net with dropout and a counter buffer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
    net.register_buffer("tests", torch.zeros((), dtype=torch.int64))
    return net


class Noisy:
    """A line with noise; not a number at one step."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.poison: int | None = None

    def batch(self, step: int, share: Share) -> Batch:
        g = generator(self.config.seed, "batch", step)
        x = torch.randn(self.config.batch_size, 3, generator=g)
        if step == self.poison:
            x[2] = float("nan")
        y = x.sum(1, keepdim=True) + 0.1 * torch.randn(len(x), 1, generator=g)
        return Batch(share.of(x), share.of(y))


class SquaredError(Loss):
    """Mean squared error."""

    def forward(self, batch: Batch, turn: str = "") -> tuple[Tensor, Scalars]:
        assert batch.y is not None
        error = (self.model(batch.x) - batch.y).square().mean()
        return error, {"mse": error.detach()}


class LineTests(Tests):
    """Squared errors against the line without noise."""

    splits = ("validation", "test")
    selection = ("validation", "mse")

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        return {"mse": float(self._errors(split, workers).mean())}

    def test(self, workers: Workers) -> Tested:
        errors = self._errors("test", workers)
        return Tested("squared_errors", errors, "mse", errors)

    def _errors(self, split: str, workers: Workers) -> Tensor:
        points = torch.randn(50, 3, generator=generator(split))
        return workers.each(split, torch.split(points, 20), self._error)

    def _error(self, x: Tensor) -> Tensor:
        error: Tensor = self.model(x) - x.sum(1, keepdim=True)
        return error.square().flatten()


class Counting(Upkeep):
    """Counts tests, in a buffer of the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def prepare_test(self) -> None:
        tests = self.model.get_buffer("tests")
        tests += 1


class Picture:
    """A file that says when it was drawn."""

    def draw(self, folder: Path, step: int) -> None:
        (folder / f"step_{step}.png").write_bytes(b"picture")


def regression(config: TrainingConfig) -> Parts:
    """A line with noise, fitted by a net with dropout and a counter buffer."""
    net = small_net(config.seed)
    return Parts(
        data=Noisy(config),
        loss=SquaredError(net),
        tests=LineTests(net),
        figures=Picture(),
    )


def assembled(config: TrainingConfig, folder: RunFolder, ranks: Ranks) -> Engine:
    """An engine for the regression problem."""
    parts = regression(config)
    return Engine(parts, config, folder, ranks, upkeep=Counting(parts.loss.model))


class MakeEngine(Protocol):
    """Builds an engine for the regression problem in a folder."""

    def __call__(self, folder: Path, **changes: Any) -> Engine: ...


@pytest.fixture
def make_engine() -> MakeEngine:
    """An engine in a new folder, or in an existing one from where it stopped."""

    def make(folder: Path, *, learning_rate: float = 1e-2, **changes: Any) -> Engine:
        defaults: dict[str, Any] = {
            "iterations": 30,
            "batch_size": 8,
            "optimizer": OptimizerConfig(learning_rate=learning_rate),
        }
        config = TrainingConfig(**(defaults | changes))
        ranks = Ranks(0, 1, torch.device("cpu"))
        if folder.exists():
            engine = assembled(config, RunFolder.open(folder), ranks)
            resume(engine)
            return engine
        description = {"experiment": "regression", "config": to_json(config)}
        run = RunFolder.create(folder, description, ["test"])
        return assembled(config, run, ranks)

    return make


@pytest.fixture
def weights() -> Callable[[Engine], dict[str, Tensor]]:
    """All tensors of an engine's loss."""
    return lambda engine: {k: v.clone() for k, v in engine.parts.loss.state_dict().items()}


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """Tests need not see all digits."""

    def few(digits: ImageSet) -> ImageSplits:
        parts = [digits.select(torch.arange(16 * k, 16 * k + 16)) for k in range(3)]
        return ImageSplits(*parts)

    images_as_read.cache_clear()
    monkeypatch.setattr("flow_apps.parts.image_sets.digits_splits", few)
    yield
    images_as_read.cache_clear()


@pytest.fixture
def cli() -> Cli:
    """The command line within this process."""

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def in_child(tmp_path: Path) -> Callable[..., int]:
    """Start a command line in a forked process, which is quick because torch is there already."""

    def start(*arguments: object, **environment: str) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the child runs no other thread
            process = os.fork()
        if process:
            return process
        try:
            os.environ.update(environment)
            result = CliRunner().invoke(app, [str(argument) for argument in arguments])
            (tmp_path / f"child-{os.getpid()}.txt").write_text(f"{result.output}{result.exception}")
            os._exit(result.exit_code)
        finally:
            os._exit(99)

    return start


@pytest.fixture
def imported_glow() -> Callable[[Path], Path]:
    """The folder of an imported Glow of 3x8x8 images, with random weights."""
    return _write_glow


def _write_glow(folder: Path) -> Path:
    layout = GlowLayout(image_shape=(3, 8, 8), levels=2, steps=1, width=4)
    flow = build_glow(layout)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=drawn))
    for module in flow.modules():
        if isinstance(module, ActNorm):
            module.initialized.fill_(True)
    weights = save({key: t.contiguous() for key, t in flow.state_dict().items()})
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(weights)
    digest = bytes_checksum([weights], "sha256").hexdigest
    told = {"format": "flow-apps import 1", "layout": "glow", "sizes": to_json(layout)}
    write_json(folder / DESCRIPTION, {**told, "sha256": digest})
    return folder
