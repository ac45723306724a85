from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

import pytest
from flow_apps.config import (
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    apply_overrides,
    differences,
    from_json,
    parse_assignments,
    to_json,
)
from flow_apps.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Net:
    growth: int = 16
    widths: tuple[int, ...] = (4, 8)
    activation: Literal["CPila", "ReLU"] = "CPila"
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Experiment:
    name: str = "toy"
    scale: float = 1.0
    net: Net = Net()
    training: TrainingConfig = field(default_factory=TrainingConfig)


def test_short_and_dotted_keys_reach_their_field() -> None:
    changed = apply_overrides(
        Experiment(), {"batch_size": 256, "net.growth": 32, "scale": 2, "ema_decay": None}
    )
    assert changed.training.batch_size == 256
    assert changed.net.growth == 32
    assert isinstance(changed.scale, float)
    assert changed.training.ema_decay is None


@pytest.mark.parametrize(
    ("text", "field_name", "value"),
    [
        ("batch_size=256", "batch_size", 256),
        ("learning_rate=1e-2", "optimizer.learning_rate", 1e-2),
        ("compile=true", "compile", True),
        ("compile=False", "compile", False),
        ("ema_decay=none", "ema_decay", None),
        ("ema_decay=0.99", "ema_decay", 0.99),
        ("ema_decay=.99", "ema_decay", 0.99),
        ('options={"betas": [0.8, 0.9]}', "optimizer.options", {"betas": (0.8, 0.9)}),
        ("optimizer.name=sgd", "optimizer.name", "sgd"),
        ("milestones=[[0.5, 0.1]]", "optimizer.schedule.milestones", ((0.5, 0.1),)),
        ("device=cuda", "device", "cuda"),
        ("trackers=wandb", "trackers", ("wandb",)),
        ("iterations=1e3", "iterations", 1000),
    ],
)
def test_texts_become_typed_values(text: str, field_name: str, value: object) -> None:
    config = apply_overrides(TrainingConfig(), parse_assignments([text]))
    found: object = attrgetter(field_name)(config)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize=2", "did you mean batch_size"),
        ("bach_size=2", "did you mean batch_size"),
        ("net.growht=2", "did you mean net.growth"),
        ("seed=3", "could mean net.seed, training.seed"),
        ("batch_size=many", 'batch_size: expected an integer, got "many"'),
        ("batch_size=1.5", "expected an integer"),
        ("batch_size=true", "expected an integer"),
        ("batch_size=1e30", "at most 53 bits"),
        ("scale=1e999", "expected a finite number"),
        ("batch_size=-1", "batch_size: expected a positive integer, got -1"),
        ("batch_size=none", "expected an integer"),
        ("compile=1", "expected true or false"),
        ("scale=wide", "expected a finite number"),
        ("widths={}", "net.widths: expected a list"),
        ('widths=["x"]', "net.widths: expected an integer"),
        ("activation=CPile", "did you mean CPila"),
        ("milestones=[[0.1]]", "expected a list of 2 values"),
        ("options=[0.1]", "options: expected options like"),
        ("training.optimizer.name=adma", "did you mean adam"),
        ("learning_rate=0", "learning_rate: expected a positive number"),
        ("weight_decay=-1", "weight_decay"),
        ("gradient_clip=-1", "gradient_clip"),
        ("ema_decay=2", "ema_decay"),
        ("batch_size", "expected key=value"),
        ("zzz=1", "unknown config key 'zzz'; known: "),
    ],
)
def test_a_wrong_override_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        apply_overrides(Experiment(), parse_assignments([text]))
    assert message in str(raised.value)


def test_a_config_survives_json() -> None:
    config = apply_overrides(Experiment(), {"milestones": [[0.5, 0.1]], "widths": [1, 2, 3]})
    assert from_json(Experiment, to_json(config)) == config


def test_differences_are_listed_by_dotted_key() -> None:
    other = apply_overrides(Experiment(), {"growth": 3})
    assert differences(Experiment(), other) == {"net.growth": (16, 3)}


def test_learning_rate_warms_up_and_steps_down() -> None:
    schedule = ScheduleConfig(warmup=2, milestones=((2 / 3, 0.04), (1 / 3, 0.2)))
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule)
    rates = [config.learning_rate_at(step, 15) for step in (1, 2, 5, 6, 10, 11, 15)]
    assert rates == [0.5, 1.0, 1.0, 0.2, 0.2, 0.04, 0.04]
    schedule = ScheduleConfig(warmup=10, milestones=((1 / 3, 0.2),))
    slow = OptimizerConfig(learning_rate=1.0, schedule=schedule)
    rates = [slow.learning_rate_at(step, 15) for step in (5, 6, 10)]
    assert rates == pytest.approx([0.5, 0.12, 0.2])
