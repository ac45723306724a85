import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.config import OptimizerConfig
from flow_apps.errors import CheckpointError, RunFolderError
from flow_apps.training import Certificate, Engine, RunFolder, Workers, load_checkpoint
from flow_apps.training.metrics import read_metrics
from torch import Tensor

Make = Callable[..., Engine]
Weights = Callable[[Engine], dict[str, Tensor]]

TIMES = {"seconds_per_step"}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run without its times."""
    found = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def score(engine: Engine) -> float:
    engine.parts.loss.eval()
    with torch.no_grad():
        return engine.parts.tests.evaluate("test", 30, Workers(engine.ranks, ("score",)))["mse"]


def newest(folder: RunFolder) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    return load_checkpoint(folder.checkpoints.newest())


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_run_leaves_what_it_promises(make_engine: Make, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert make_engine(folder, evaluate_every=10, figures_every=10).run()
    names = {path.name for path in folder.iterdir()}
    expected = {"config.json", "metrics.jsonl", "summary.json", "figures", "checkpoints"}
    assert expected | {"tensorboard", "test"} == names
    tested = sorted(path.name for path in (folder / "test").iterdir())
    assert tested == ["best_squared_errors.npy", "last_squared_errors.npy"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 30
    assert summary["parameters"] == 41
    assert summary["test_mse"] < 3.0
    assert summary["seconds_per_step"] > 0
    assert summary["cpu_seconds_per_step"] > 0
    assert summary["first_steps_seconds"] >= 0
    tests = [row["mse"] for row in rows(folder) if row["split"] == "test"]
    assert len(tests) == 3
    assert summary["test_mse_last20"] == pytest.approx(sum(tests) / 3)
    assert (folder / "figures" / "step_30.png").exists()
    assert list((folder / "tensorboard").iterdir())
    trained = [row for row in rows(folder) if row["split"] == "train"]
    assert [row["step"] for row in trained] == [10, 20, 30]
    assert {"loss", "mse", "gradient_norm", "learning_rate"} <= trained[0].keys()


def test_the_loss_falls(make_engine: Make, tmp_path: Path) -> None:
    make_engine(tmp_path / "run", iterations=200, log_every=1).run()
    losses = [row["loss"] for row in rows(tmp_path / "run") if row["split"] == "train"]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_two_halves_equal_the_whole_bit_for_bit(
    make_engine: Make, weights: Weights, tmp_path: Path, ema_decay: float | None
) -> None:
    whole = make_engine(tmp_path / "whole", evaluate_every=7, ema_decay=ema_decay)
    whole.run()
    make_engine(tmp_path / "half", iterations=15, evaluate_every=7, ema_decay=ema_decay).run()
    second = make_engine(tmp_path / "half", evaluate_every=7, ema_decay=ema_decay)
    assert second.state.step == 15
    second.run()
    assert_same(weights(whole), weights(second))
    states = [newest(RunFolder.open(tmp_path / name)) for name in ("whole", "half")]
    (first,), (other,) = (state["optimizers"] for state in states)
    assert first["state"].keys() == other["state"].keys() != set()
    for index in first["state"]:
        assert_same(first["state"][index], other["state"][index])
    assert states[0]["best"] == states[1]["best"]
    best = [RunFolder.open(tmp_path / name).checkpoints.best for name in ("whole", "half")]
    assert load_checkpoint(best[0])["step"] == load_checkpoint(best[1])["step"]
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")


def test_a_test_does_not_change_training(
    make_engine: Make, weights: Weights, tmp_path: Path
) -> None:
    often = make_engine(tmp_path / "often", evaluate_every=1, figures_every=1)
    rarely = make_engine(tmp_path / "rarely", evaluate_every=1000, figures_every=1000)
    often.run()
    rarely.run()
    assert_same(weights(often), weights(rarely))


def test_the_moving_average_is_what_is_tested(
    make_engine: Make, weights: Weights, tmp_path: Path
) -> None:
    engine = make_engine(tmp_path / "run", ema_decay=0.9, evaluate_every=30)
    engine.run()
    average = engine.state.average
    assert average is not None
    logged = [row["mse"] for row in rows(tmp_path / "run") if row["split"] == "test"][-1]
    assert score(engine) != pytest.approx(logged, rel=1e-6)
    for p, mean in zip(
        engine.parts.loss.model.parameters(), average.module.parameters(), strict=True
    ):
        p.data.copy_(mean)
    assert score(engine) == pytest.approx(logged, rel=1e-6)


def test_metrics_after_the_checkpoint_are_cut(make_engine: Make, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_engine(folder, iterations=20).run()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 99, "split": "train"}) + '\n{"step": 100, "spl')
    engine = make_engine(folder, iterations=30)
    assert max(row["step"] for row in rows(folder)) == 20
    engine.run()
    assert [r["step"] for r in rows(folder) if r["split"] == "train"] == [10, 20, 30]


def test_a_resumed_run_follows_what_its_optimizer_is_told_anew(
    make_engine: Make, tmp_path: Path
) -> None:
    make_engine(tmp_path / "run", iterations=15).run()
    told = OptimizerConfig(learning_rate=0.5, weight_decay=0.25, options={"betas": (0.5, 0.75)})
    engine = make_engine(tmp_path / "run", optimizer=told)
    engine.run()
    (group,) = newest(engine.folder)["optimizers"][0]["param_groups"]
    assert group["lr"] == 0.5
    assert group["weight_decay"] == 0.25
    assert group["betas"] == (0.5, 0.75)


def test_another_rhythm_of_evaluations_keeps_those_that_were_made(
    make_engine: Make, tmp_path: Path
) -> None:
    make_engine(tmp_path / "run", iterations=9, evaluate_every=3).run()
    make_engine(tmp_path / "run", iterations=20, evaluate_every=10).run()
    tested = [row["step"] for row in rows(tmp_path / "run") if row["split"] == "test"]
    assert tested == [3, 6, 9, 10, 20]


def test_a_run_without_checkpoint_starts_again_and_says_so(
    make_engine: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    make_engine(folder)  # killed before step 0
    engine = make_engine(folder)
    assert "starting again" in capsys.readouterr().err
    assert engine.run()


def test_damaged_checkpoints_are_kept_when_a_run_starts_again(
    make_engine: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    make_engine(folder, iterations=20).run()
    (folder / "summary.json").unlink()
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert make_engine(folder).run()
    message = capsys.readouterr().err
    assert "damaged" in message
    assert "starting again" in message
    assert len(list((folder / "checkpoints").glob("*.damaged"))) == 2
    assert (folder / "metrics.damaged.jsonl").exists()


def test_a_finished_run_does_not_start_again(make_engine: Make, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_engine(folder, iterations=20).run()
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no valid checkpoint left"):
        make_engine(folder, iterations=30)
    assert (folder / "summary.json").exists()


def test_resuming_goes_back_to_the_older_checkpoint(make_engine: Make, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_engine(folder, iterations=20).run()
    (folder / "checkpoints" / "step_000000020.ckpt").write_bytes(b"")
    assert make_engine(folder).state.step == 0


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="--resume"):
        RunFolder.create(tmp_path, {"experiment": "regression"}, [])
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no such run"):
        RunFolder.open(tmp_path / "nowhere")


def test_another_model_does_not_load(make_engine: Make, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    engine = make_engine(folder)
    engine.run()
    state = load_checkpoint(engine.folder.checkpoints.path(30))
    state["loss"] = {"model.0.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"does not fit .*0\.weight.*; restore config\.json"):
        engine.state.load_state_dict(state, tmp_path / "step.ckpt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(
    make_engine: Make, weights: Weights, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    engine = make_engine(tmp_path / "run")
    original = engine.upkeep.after_optimizer_step

    def interrupted(step: int) -> None:
        original(step)
        if step == 12:
            os.kill(os.getpid(), number)

    engine.upkeep.after_optimizer_step = interrupted  # type: ignore[method-assign] # the test interrupts here
    assert not engine.run()
    assert signal.getsignal(number) is before
    assert not engine.folder.finished
    again = make_engine(tmp_path / "run")
    assert again.state.step == engine.state.step == 13
    assert again.run()
    whole = make_engine(tmp_path / "whole")
    whole.run()
    assert_same(weights(whole), weights(again))


def test_best_weights_follow_the_validation_value(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "run", evaluate_every=3, learning_rate=0.3)
    engine.run()
    tried = {r["step"]: r["mse"] for r in rows(tmp_path / "run") if r["split"] == "validation"}
    best = load_checkpoint(engine.folder.checkpoints.best)
    assert best["step"] == min(tried, key=lambda step: tried[step])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["best_step"] == best["step"]
    tests = {r["step"]: r["mse"] for r in rows(tmp_path / "run") if r["split"] == "test"}
    assert summary["best_test_mse"] == pytest.approx(tests[best["step"]], rel=1e-6)
    assert summary["test_mse"] == pytest.approx(tests[30], rel=1e-6)


def test_the_last_weights_are_the_best_only_where_no_others_were_evaluated(
    make_engine: Make, tmp_path: Path
) -> None:
    alone = make_engine(tmp_path / "alone", iterations=5)
    alone.run()
    assert load_checkpoint(alone.folder.checkpoints.best)["step"] == 5
    assert {row["step"] for row in rows(tmp_path / "alone") if row["split"] == "test"} == {5}
    later = make_engine(tmp_path / "later", iterations=5, evaluate_every=3, learning_rate=1e-3)
    later.run()
    tried = {r["step"]: r["mse"] for r in rows(tmp_path / "later") if r["split"] == "validation"}
    assert tried[5] < tried[3]
    assert load_checkpoint(later.folder.checkpoints.best)["step"] == 3
    summary = json.loads(later.folder.summary_path.read_text())
    tests = {r["step"]: r["mse"] for r in rows(tmp_path / "later") if r["split"] == "test"}
    assert summary["test_mse_last20"] == tests[3]


def test_checkpoints_follow_the_clock(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "run", checkpoint_seconds=1e-6)
    engine.run()
    assert engine.folder.checkpoints.steps() == [30, 29]


def test_figures_take_no_more_than_their_share(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(tmp_path / "run", figures_every=1, iterations=100)
    slow = [0.0]

    def draw(folder: Path, step: int) -> None:
        slow[0] += 1

    monkeypatch.setattr(engine.parts.figures, "draw", draw)
    monkeypatch.setattr("flow_apps.training.testing._FIGURE_SHARE", 0.0)
    engine.run()
    assert slow[0] == 2  # the first, before anything is known about their cost, and the last


def test_gradient_clipping_bounds_the_step(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "run", gradient_clip=1e-3, iterations=1)
    engine.run()
    gradients = [p.grad for p in engine.parts.loss.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_same_seed_same_weights_other_seed_other_weights(
    make_engine: Make, weights: Weights, tmp_path: Path
) -> None:
    runs = [make_engine(tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
    for run in runs:
        torch.rand(3)  # the state of the global generator must not matter
        run.run()
    assert_same(weights(runs[0]), weights(runs[1]))
    assert not torch.equal(weights(runs[0])["model.0.weight"], weights(runs[2])["model.0.weight"])


def test_the_config_is_on_disk(make_engine: Make, tmp_path: Path) -> None:
    make_engine(tmp_path / "run", seed=5)
    content = RunFolder.open(tmp_path / "run").description()
    assert content["config"]["seed"] == 5
    assert content["command"] == ["test"]
    assert {"python", "torch", "flow-core"} <= content["versions"].keys()


def test_what_had_to_be_repaired_for_the_test_is_told_and_put_back(
    make_engine: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine(tmp_path / "run", iterations=2)

    def certify() -> Certificate:
        for parameter in engine.parts.loss.parameters():
            parameter.data.zero_()
        return Certificate(bounds={"net": 0.9, "other": 0.5}, repaired={"net": 1.25})

    engine.upkeep.certify = certify  # type: ignore[method-assign] # stands for a lost bound
    assert engine.run()
    assert "bound of net was 1.2500" in capsys.readouterr().err
    summary = json.loads(engine.folder.summary_path.read_text())
    assert summary["repaired"] == summary["best_repaired"] == {"net": 1.25}
    assert summary["lipschitz_bound"] == {"net": 0.9, "other": 0.5}
    for row in rows(engine.folder.path):
        if row["split"] != "train":
            told = (row["lipschitz_bound"], row["lipschitz_bound_of"], row["repaired"])
            assert told == (0.9, "net", {"net": 1.25})
    assert any(bool(p.any()) for p in engine.parts.loss.parameters())
