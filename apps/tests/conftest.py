"""A small problem for the engine, and engines that train it in a temporary folder."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from flow_apps.cli import app
from flow_apps.training import (
    Batch,
    Engine,
    Objective,
    Ranks,
    RunFolder,
    TrainingConfig,
    resume,
    to_json,
)
from flow_apps.training.randomness import generator
from torch import Tensor, nn
from typer.testing import CliRunner, Result

Cli = Callable[..., Result]


class Regression(Objective):
    """A line with noise, fitted by a net with dropout and a counter buffer."""

    splits = ("validation", "test")
    selection = ("validation", "mse")

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            layers = [nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)]
            self.net = nn.Sequential(*layers)
        self.net.register_buffer("tests", torch.zeros((), dtype=torch.int64))
        self.poison: int | None = None

    @property
    def model(self) -> nn.Sequential:
        return self.net

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        error = (self.net(x) - y).square().mean()
        return error, {"mse": error.detach()}

    def batch(self, step: int) -> Batch:
        g = generator(self.config.seed, "batch", step)
        x = torch.randn(self.config.batch_size, 3, generator=g)
        if step == self.poison:
            x[2] = float("nan")
        return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(len(x), 1, generator=g)

    def evaluate(self, split: str, step: int) -> dict[str, float]:
        g = generator(split)
        x = torch.randn(50, 3, generator=g)
        return {"mse": float((self.net(x) - x.sum(1, keepdim=True)).square().mean())}

    def test(self, step: int) -> dict[str, float]:
        return {"test_mse": self.evaluate("test", step)["mse"], "standard_error": 0.0}

    def prepare_test(self) -> None:
        tests = self.net.get_buffer("tests")
        tests += 1

    def figures(self, folder: Path, step: int) -> None:
        (folder / f"step_{step}.png").write_bytes(b"picture")


class MakeEngine(Protocol):
    """Builds an engine for the regression problem in a folder."""

    def __call__(self, folder: Path, **changes: Any) -> Engine: ...


@pytest.fixture
def make_engine() -> MakeEngine:
    """An engine in a new folder, or in an existing one from where it stopped."""

    def make(folder: Path, **changes: Any) -> Engine:
        defaults: dict[str, Any] = {"iterations": 30, "batch_size": 8, "learning_rate": 1e-2}
        config = TrainingConfig(**(defaults | changes))
        ranks = Ranks(0, 1, torch.device("cpu"))
        if folder.exists():
            engine = Engine(Regression(config), config, RunFolder.open(folder), ranks)
            resume(engine)
            return engine
        description = {"experiment": "regression", "config": to_json(config)}
        run = RunFolder.create(folder, description, ["test"])
        return Engine(Regression(config), config, run, ranks)

    return make


@pytest.fixture
def weights() -> Callable[[Engine], dict[str, Tensor]]:
    """All tensors of an engine's objective."""
    return lambda engine: {k: v.clone() for k, v in engine.objective.state_dict().items()}


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
