"""Steps that fail and are left out, or from which a run goes back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from flow_apps.config import OptimizerConfig, TrainingConfig, apply_overrides
from flow_apps.errors import ConfigError, TrainingFailure
from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.identity import allowed_changes
from flow_apps.registry import find_experiment
from flow_apps.training import Batch, Engine, Scalars, Workers, load_checkpoint
from flow_apps.training.metrics import read_metrics
from flow_apps.training.reporting import StepResult
from flow_apps.training.step import Stepper
from torch import Tensor

Make = Callable[..., Engine]
Forward = Callable[[Batch, str], tuple[Tensor, Scalars]]

BAD = 17
TWO_TURNS: dict[str, Any] = {
    "further_optimizers": (
        OptimizerConfig(name="sgd", learning_rate=0.1, parameters=("model.3.*",), turn="other"),
    )
}


def poison(engine: Engine, step: int) -> None:
    """Let sample 2 of a step be no number."""
    setattr(engine.parts.data, "poison", step)  # noqa: B010


def change_loss(engine: Engine, step: int, of: str, change: Callable[[Tensor], Tensor]) -> None:
    """Change the loss of a turn of a step."""
    forward = engine.parts.loss.forward

    def changed(batch: Batch, turn: str = "") -> tuple[Tensor, Scalars]:
        loss, scalars = forward(batch, turn)
        now = engine.state.step + 1
        return (change(loss) if (now, turn) == (step, of) else loss), scalars

    engine.parts.loss.forward = changed  # type: ignore[method-assign] # this step goes wrong


def newest(engine: Engine) -> dict[str, Any]:
    return load_checkpoint(engine.folder.checkpoints.newest())


def trained(state: dict[str, Any]) -> dict[str, Any]:
    """What steps change."""
    return {name: state[name] for name in ("loss", "optimizers", "average")}


def rows(engine: Engine, split: str | None = None) -> list[dict[str, Any]]:
    found = read_metrics(engine.folder.metrics_path)
    kept = [row for row in found if split in (None, row["split"])]
    return [{k: v for k, v in row.items() if k != "seconds_per_step"} for row in kept]


def summary(engine: Engine) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(engine.folder.summary_path.read_text())
    return content


def assert_equal(first: object, second: object) -> None:
    """Equal to the last bit, inside any containers."""
    if isinstance(first, Tensor):
        assert isinstance(second, Tensor)
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert isinstance(second, dict)
        assert first.keys() == second.keys()
        for key, value in cast("dict[str, object]", first).items():
            assert_equal(value, second[key])
    elif isinstance(first, list | tuple):
        assert isinstance(second, list | tuple)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def run_without(engine: Engine, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a run that never had a step."""
    take = Stepper.__call__

    def passing_over(self: Stepper, number: int, *, logged: bool) -> StepResult:
        if number == step:
            return StepResult({}, {}, {})
        return take(self, number, logged=logged)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", passing_over)
        engine.run()


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_decay": 0.9}, {"accumulate": 4}, {"gradient_clip": 0.5}, TWO_TURNS],
    ids=str,
)
def test_a_skipped_step_leaves_no_trace(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    skipping = make_engine(tmp_path / "skip", on_failure="skip", **changes)
    poison(skipping, BAD)
    assert skipping.run()
    without = make_engine(tmp_path / "without", **changes)
    run_without(without, BAD, monkeypatch)
    assert_equal(trained(newest(skipping)), trained(newest(without)))
    assert summary(skipping)["test_mse"] == summary(without)["test_mse"]
    untouched = make_engine(tmp_path / "untouched", **changes)
    untouched.run()
    one, other = newest(skipping)["loss"], newest(untouched)["loss"]
    assert not torch.equal(one["model.0.weight"], other["model.0.weight"])


def test_a_turn_that_fails_takes_back_those_before_it(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipping = make_engine(tmp_path / "skip", on_failure="skip", ema_decay=0.9, **TWO_TURNS)
    change_loss(skipping, BAD, "other", lambda loss: loss * torch.nan)
    assert skipping.run()
    without = make_engine(tmp_path / "without", ema_decay=0.9, **TWO_TURNS)
    run_without(without, BAD, monkeypatch)
    assert_equal(trained(newest(skipping)), trained(newest(without)))


@pytest.mark.parametrize("policy", ["skip", "restore"])
def test_what_failed_is_told(
    make_engine: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    engine = make_engine(tmp_path / "run", on_failure=policy, evaluate_every=5, log_every=1)
    poison(engine, BAD)
    assert engine.run()
    (row,) = rows(engine, "failure")
    assert row["step"] == BAD
    assert f"step {BAD}: x of the batch is not finite in samples [2]" in row["problem"]
    (failed,) = summary(engine)["failures"]
    assert {name: row[name] for name in failed} == failed
    said = capsys.readouterr().err
    assert row["problem"] in said
    done = "left out" if policy == "skip" else "back to the weights of step "
    assert f"{done}" in said
    assert "failure 1 of 10 that may be" in said
    assert {r["step"] for r in rows(engine, "train")} == set(range(1, 31)) - {BAD}


def test_a_run_without_failures_tells_that_there_were_none(
    make_engine: Make, tmp_path: Path
) -> None:
    engine = make_engine(tmp_path / "run", on_failure="skip")
    assert engine.run()
    assert summary(engine)["failures"] == []


def test_restoring_goes_back_to_the_best_evaluation(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"evaluate_every": 4, "ema_decay": 0.9}
    engine = make_engine(tmp_path / "run", on_failure="restore", iterations=BAD, **changes)
    values = {4: 2.0, 8: 1.0, 12: 1.5, 16: float("nan")}

    def told(_split: str, step: int, _workers: Workers) -> dict[str, float]:
        return {"mse": values.get(step, 0.0)}

    monkeypatch.setattr(engine.parts.tests, "evaluate", told)
    poison(engine, BAD)
    assert engine.run()
    (failed,) = summary(engine)["failures"]
    assert failed["went_back_to"] == 8
    whole = make_engine(tmp_path / "whole", iterations=8, **changes)
    whole.run()
    assert_equal(trained(newest(engine)), trained(newest(whole)))


def test_going_back_twice_comes_to_the_same_state(make_engine: Make, tmp_path: Path) -> None:
    """Optimizers change their tensors in place; what was kept is not theirs."""
    changes: dict[str, Any] = {"evaluate_every": 8, "ema_decay": 0.9}
    engine = make_engine(tmp_path / "run", on_failure="restore", iterations=15, **changes)
    change_loss(engine, 11, "", lambda loss: loss * torch.nan)
    poison(engine, 15)
    assert engine.run()
    assert [failed["went_back_to"] for failed in summary(engine)["failures"]] == [8, 8]
    whole = make_engine(tmp_path / "whole", iterations=8, **changes)
    whole.run()
    assert_equal(trained(newest(engine)), trained(newest(whole)))


def test_learning_rates_fall_with_every_failure(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(
        tmp_path / "run", on_failure="restore", rate_after_failure=0.5, iterations=9, log_every=1
    )
    usual = engine.state.config.optimizer.learning_rate
    for bad in (4, 7):
        change_loss(engine, bad, "", lambda loss: loss * torch.nan)
    assert engine.run()
    rates = {row["step"]: row["learning_rate"] / usual for row in rows(engine, "train")}
    assert rates == {1: 1, 2: 1, 3: 1, 5: 0.5, 6: 0.5, 8: 0.25, 9: 0.25}
    # A run that goes on from there knows how many failed.
    again = make_engine(
        tmp_path / "run", on_failure="restore", rate_after_failure=0.5, iterations=10, log_every=1
    )
    assert again.run()
    assert rows(again, "train")[-1]["learning_rate"] == usual / 4


def test_restoring_without_an_evaluation_goes_back_to_the_start(
    make_engine: Make, tmp_path: Path
) -> None:
    engine = make_engine(tmp_path / "run", on_failure="restore", iterations=3)
    start = engine.parts.loss.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    poison(engine, 3)
    assert engine.run()
    assert_equal(newest(engine)["loss"], start)
    assert newest(engine)["optimizers"][0]["state"] == {}


@pytest.mark.parametrize("policy", ["skip", "restore"])
@pytest.mark.parametrize("end", [15, 18, 22])
def test_a_run_that_is_killed_around_failures_is_the_same_run(
    make_engine: Make, tmp_path: Path, policy: str, end: int
) -> None:
    changes: dict[str, Any] = {
        "on_failure": policy,
        "evaluate_every": 5,
        "ema_decay": 0.9,
        "checkpoint_seconds": 1e-6,
        "log_every": 1,
        "divergence_margin": 1e6,
    }

    def poisoned(folder: Path, **more: Any) -> Engine:
        engine = make_engine(folder, **changes, **more)
        change_loss(engine, 16, "", lambda loss: loss * torch.nan)
        poison(engine, 20)
        return engine

    whole = poisoned(tmp_path / "whole")
    assert whole.run()
    poisoned(tmp_path / "parts", iterations=end).run()
    first = whole.folder.checkpoints
    (tmp_path / "parts" / "checkpoints" / first.path(end).name).unlink()  # as if killed before it
    parts = poisoned(tmp_path / "parts")
    assert parts.state.step == end - 1
    assert parts.run()
    one, other = newest(whole), newest(parts)
    for state in (one, other):
        del state["clock"]
    assert_equal(one, other)
    assert rows(whole) == rows(parts)
    assert len(summary(parts)["failures"]) == 2
    assert summary(whole)["failures"] == summary(parts)["failures"]


@pytest.mark.parametrize("policy", ["skip", "restore"])
def test_one_failure_too_many_ends_the_run(make_engine: Make, tmp_path: Path, policy: str) -> None:
    engine = make_engine(tmp_path / "run", on_failure=policy, max_failures=2)
    for step in (4, 6, 9):
        change_loss(engine, step, "", lambda loss: loss * torch.nan)
    message = r"step 9: the loss is not .*; 2 steps had failed already, as many as max_failures"
    with pytest.raises(TrainingFailure, match=message):
        engine.run()
    assert [row["step"] for row in rows(engine, "failure")] == [4, 6]
    again = make_engine(tmp_path / "run", on_failure=policy, max_failures=3)
    change_loss(again, 9, "", lambda loss: loss * torch.nan)
    assert again.run()


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_gradients_that_are_no_numbers_never_reach_the_weights(
    make_engine: Make, tmp_path: Path, policy: str
) -> None:
    # A run that stops looks at the norm where it is needed, for clipping or the log.
    engine = make_engine(tmp_path / "run", on_failure=policy, gradient_clip=1.0)
    weight = engine.parts.loss.model.get_parameter("0.weight")
    # The derivative of a root at zero is infinite, its value is fine.
    change_loss(engine, BAD, "", lambda loss: loss + (0 * weight).sqrt().sum())
    message = f"step {BAD}: the gradient of parameter model.0.weight is not finite"
    if policy == "stop":
        with pytest.raises(TrainingFailure, match=message):
            engine.run()
        assert bool(torch.isfinite(weight).all())
        return
    assert engine.run()
    assert message in rows(engine, "failure")[0]["problem"]


def test_weights_that_a_step_spoils_are_put_back(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(tmp_path / "run", on_failure="skip")

    def spoil(step: int) -> None:
        if step == BAD:
            engine.parts.loss.model.get_parameter("3.bias").data.fill_(float("inf"))

    engine.upkeep.after_optimizer_step = spoil  # type: ignore[method-assign] # breaks the weights
    assert engine.run()
    assert "parameter model.3.bias is not finite" in rows(engine, "failure")[0]["problem"]
    without = make_engine(tmp_path / "without")
    run_without(without, BAD, monkeypatch)
    assert_equal(trained(newest(engine)), trained(newest(without)))


def test_a_loss_far_above_the_lowest_has_diverged(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"divergence_margin": 50.0}
    engine = make_engine(tmp_path / "run", on_failure="skip", **changes)
    change_loss(engine, BAD, "", lambda loss: 1000 * loss)
    assert engine.run()
    (row,) = rows(engine, "failure")
    assert "is more than divergence_margin=50 above the lowest so far" in row["problem"]
    without = make_engine(tmp_path / "without", **changes)
    run_without(without, BAD, monkeypatch)
    one, other = newest(engine), newest(without)
    assert_equal(trained(one), trained(other))
    assert one["lowest"] == other["lowest"]
    stopping = make_engine(tmp_path / "stop", **changes)
    change_loss(stopping, BAD, "", lambda loss: 1000 * loss)
    with pytest.raises(TrainingFailure, match=f"step {BAD}: .*--resume and a lower --lr"):
        stopping.run()
    careless = make_engine(tmp_path / "careless", on_failure="skip")
    change_loss(careless, BAD, "", lambda loss: 1000 * loss)
    assert careless.run()
    assert rows(careless, "failure") == []


def test_a_run_is_told_anew_what_becomes_of_failures(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "run")
    poison(engine, BAD)
    with pytest.raises(TrainingFailure):
        engine.run()
    again = make_engine(tmp_path / "run", on_failure="restore")
    poison(again, BAD)
    assert again.run()
    before = Toy2dConfig()
    changes = {"on_failure": "skip", "max_failures": 3, "divergence_margin": 2.0}
    after = apply_overrides(before, changes)
    assert len(allowed_changes(find_experiment("toy2d"), before, after, "run")) == 3


def test_a_checkpoint_of_an_earlier_version_is_taken_up(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "run", iterations=5)
    engine.run()
    state = newest(engine)
    for name in ("failures", "lowest", "kept"):
        del state[name]
    engine.folder.checkpoints.save(5, state)
    assert make_engine(tmp_path / "run", on_failure="restore").run()


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_failures: expected on_failure=skip or restore"):
        TrainingConfig(max_failures=3)
    with pytest.raises(ConfigError, match="rate_after_failure: expected on_failure=restore"):
        TrainingConfig(rate_after_failure=0.5, on_failure="skip")
    with pytest.raises(ConfigError, match="rate_after_failure: expected above 0, at most 1"):
        TrainingConfig(rate_after_failure=1.5, on_failure="restore")
    with pytest.raises(ConfigError, match="divergence_margin: expected a positive number"):
        TrainingConfig(divergence_margin=0.0)
    with pytest.raises(ConfigError, match="on_failure: expected one of stop, skip, restore"):
        apply_overrides(Toy2dConfig(), {"on_failure": "ignore"})
    tolerant = apply_overrides(Toy2dConfig(), {"on_failure": "skip", "max_failures": 3})
    assert apply_overrides(tolerant, {"on_failure": "stop"}).training.max_failures == 10
