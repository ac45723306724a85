"""Optimizers by name, several of them, each with its part of a model and its own steps."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from flow_apps.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from flow_apps.config.optimizer import OptimizerName
from flow_apps.errors import ConfigError
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
    Workers,
    resume,
)
from flow_apps.training.metrics import read_metrics
from flow_apps.training.optimizers import make_optimizers
from flow_apps.training.randomness import generator
from flow_data import Share
from torch import Tensor, nn

Make = Callable[..., Engine]


class Players(Loss):
    """Two nets that pull one number to and fro: the first turn lowers it, the second raises it."""

    def __init__(self) -> None:
        super().__init__(nn.ModuleDict({"first": nn.Linear(2, 1), "second": nn.Linear(2, 1)}))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.5)

    def forward(self, batch: Batch, turn: str = "") -> tuple[Tensor, Scalars]:
        assert isinstance(self.model, nn.ModuleDict)
        first, second = self.model["first"], self.model["second"]
        game = (first(batch.x) * second(batch.x).tanh()).mean()
        return (-game if turn == "raise" else game), {"game": game.detach()}


class Points:
    def batch(self, step: int, share: Share) -> Batch:
        return Batch(share.of(torch.rand(8, 2, generator=generator("points", step))))


class NoTests(Tests):
    splits = ()

    def evaluate(self, split: str, step: int, workers: Workers) -> dict[str, float]:
        raise NotImplementedError

    def test(self, workers: Workers) -> Tested:
        return Tested("values", torch.zeros(2), "mse", torch.zeros(2))


def game(**changes: Any) -> TrainingConfig:
    second = OptimizerConfig(
        name="sgd", learning_rate=0.1, parameters=("model.second.*",), every=3, turn="raise"
    )
    options: dict[str, Any] = {"iterations": 6, "batch_size": 8, "further_optimizers": (second,)}
    merged: dict[str, Any] = {**options, "log_every": 1, **changes}
    return TrainingConfig(**merged)


def engine(folder: Path, config: TrainingConfig) -> Engine:
    parts, ranks = Parts(Points(), Players(), NoTests()), Ranks(0, 1, torch.device("cpu"))
    if folder.exists():
        made = Engine(parts, config, RunFolder.open(folder), ranks)
        resume(made)
        return made
    run = RunFolder.create(folder, {"experiment": "game", "config": {}}, [])
    return Engine(parts, config, run, ranks)


def values(engine: Engine) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in engine.parts.loss.state_dict().items()}


def test_each_optimizer_changes_its_part_at_its_own_steps(tmp_path: Path) -> None:
    states = []
    for steps in range(1, 5):
        run = engine(tmp_path / str(steps), game(iterations=steps))
        run.run()
        states.append(values(run))
    for one, next_one, step in zip(states, states[1:], (2, 3, 4), strict=False):
        assert not torch.equal(one["model.first.weight"], next_one["model.first.weight"])
        rested = torch.equal(one["model.second.weight"], next_one["model.second.weight"])
        assert rested == (step != 3)


def test_a_turn_moves_against_the_other(tmp_path: Path) -> None:
    run = engine(tmp_path / "run", game(iterations=3))
    run.run()
    found = values(run)
    # The first lowers its product with a positive number, the second raises it.
    assert bool((found["model.first.weight"] < 0.5).all())
    assert bool((found["model.second.weight"] > 0.5).all())
    rows = read_metrics(run.folder.metrics_path)
    assert "raise/loss" not in rows[0]
    assert rows[2]["raise/learning_rate"] == 0.1
    assert rows[2]["raise/loss"] == pytest.approx(-rows[2]["raise/game"])


def test_a_game_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = engine(tmp_path / "whole", game())
    whole.run()
    engine(tmp_path / "half", game(iterations=4)).run()
    half = engine(tmp_path / "half", game())
    half.run()
    assert all(torch.equal(v, values(half)[k]) for k, v in values(whole).items())


def test_what_solves_cost_is_told_of_every_turn(cli: Any, tmp_path: Path) -> None:
    toy = (
        "2spirals-monotone",
        "--batch-size",
        4,
        "--test-size",
        5,
        "--set",
        "blocks=2",
        "--set",
        "growth=4",
    )
    part = {"name": "sgd", "parameters": ["model.bijection.layers.1.*"], "turn": "second"}
    options = ("--set", f"further_optimizers={json.dumps([part])}", "--set", "compile=false")
    run = tmp_path / "run"
    steps = ("--iterations", 1, "--log-every", 1)
    assert cli("toy2d", *toy, *options, *steps, "--out", run).exit_code == 0
    row = read_metrics(run / "metrics.jsonl")[0]
    assert (
        row["solver"].keys()
        == row["second/solver"].keys()
        == {
            "bijection.layers.0",
            "bijection.layers.1",
        }
    )


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_every_optimizer_of_a_name_takes_a_step(name: OptimizerName) -> None:
    model = net()
    (assigned,) = make_optimizers(model, [OptimizerConfig(name=name)])
    assert type(assigned.optimizer).__name__.lower() == name
    before = [p.clone() for p in model.parameters()]
    model(torch.ones(4, 2)).square().sum().backward()
    assigned.optimizer.step()
    changed = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert any(changed)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OptimizerConfig(options={"beta": 0.9}), "adam has no option 'beta'; did you mean betas"),
        (OptimizerConfig(options={"lr": 0.9}), "adam has no option 'lr'"),
        (OptimizerConfig(name="sgd", options={"betas": (0.9, 0.9)}), "sgd has no option"),
        (OptimizerConfig(name="rprop", weight_decay=0.1), "rprop has none"),
        (OptimizerConfig(options={"betas": 3}), "adam refuses"),
        (OptimizerConfig(name="sgd", options={"momentum": -1}), "sgd refuses"),
    ],
)
def test_bad_options_are_refused(config: OptimizerConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_optimizers(net(), [config])


def further(*patterns: str) -> OptimizerConfig:
    return OptimizerConfig(parameters=patterns)


def test_parts_of_a_model_are_assigned_once() -> None:
    main, other = make_optimizers(net(), [OptimizerConfig(), further("1.*")])
    assert [len(main.parameters), len(other.parameters)] == [2, 2]
    with pytest.raises(ConfigError, match="no parameter is named '2"):
        make_optimizers(net(), [OptimizerConfig(), further("2.*")])
    with pytest.raises(ConfigError, match=r"0\.weight would belong to two"):
        make_optimizers(net(), [OptimizerConfig(), further("0.*"), further("*.weight")])
    with pytest.raises(ConfigError, match="no parameter is left"):
        make_optimizers(net(), [OptimizerConfig(), further("*")])
    with pytest.raises(ConfigError, match="further_optimizers: expected parameters"):
        TrainingConfig(further_optimizers=(OptimizerConfig(),))
    with pytest.raises(ConfigError, match="every: expected 1 of one"):
        game(optimizer=OptimizerConfig(every=2))


def test_options_come_from_the_command_line(cli: Any, tmp_path: Path) -> None:
    toy = (
        "2spirals-monotone",
        "--batch-size",
        4,
        "--test-size",
        5,
        "--set",
        "blocks=1",
        "--set",
        "growth=4",
    )
    options = ("--set", "optimizer.name=sgd", "--set", 'options={"momentum": 0.9}')
    run = ("--set", "compile=false", "--iterations", 1, "--out", tmp_path / "run")
    assert cli("toy2d", *toy, *options, *run).exit_code == 0
    bad = cli("toy2d", *toy, "--set", 'options={"momentum": 0.9}', "--out", tmp_path / "bad")
    assert bad.exit_code == 1
    assert "adam has no option 'momentum'" in bad.stderr
    assert not (tmp_path / "bad").exists()


def test_learning_rates_are_annealed() -> None:
    linear = OptimizerConfig(learning_rate=1.0, schedule=ScheduleConfig(anneal="linear"))
    assert [linear.learning_rate_at(step, 4) for step in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]
    cosine = OptimizerConfig(learning_rate=2.0, schedule=ScheduleConfig(anneal="cosine"))
    expected = [1 + math.cos(math.pi * done / 4) for done in range(4)]
    assert [cosine.learning_rate_at(step, 4) for step in (1, 2, 3, 4)] == pytest.approx(expected)
