"""What is proven about the weights that every evaluation is of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.errors import TrainingFailure
from flow_apps.experiments.toy2d.build import build_upkeep
from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.experiments.toy2d.model import build_flow
from flow_apps.parts.upkeep import LipschitzUpkeep
from flow_apps.training import Certificate
from flow_apps.training.metrics import read_metrics
from flow_core.lipschitz import lipschitz_certificate, lipschitz_layers

Cli = Callable[..., Any]
Break = Callable[[LipschitzUpkeep], None]

TOY = (
    "2spirals-monotone",
    *("--batch-size", 20, "--set", "blocks=2", "--set", "growth=4", "--test-size", 50),
    *("--set", "compile=false", "--set", "evaluate_every=3", "--iterations", 6),
)
DIGITS = (
    *("--batch-size", 8, "--set", "scales=[1,1]", "--set", "growth=4", "--set", "depth=1"),
    *("--set", "dense_blocks=1", "--set", "dense_growth=4", "--test-draws", 1),
    *("--set", "evaluate_every=2", "--iterations", 4),
)
COUPLINGS = ("--batch-size", 8, "--set", "block=coupling", "--set", "scales=[1]", "--test-draws", 1)


def evaluations(run: Path) -> list[dict[str, Any]]:
    rows = read_metrics(run / "metrics.jsonl")
    return [row for row in rows if row["split"] in {"validation", "test"}]


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return content


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize(("command", "options"), [("toy2d", TOY), ("image", DIGITS)])
def test_every_evaluation_is_of_certified_contractions(
    cli: Cli, tmp_path: Path, command: str, options: tuple[object, ...]
) -> None:
    run = tmp_path / "run"
    result = cli(command, *options, "--out", run)
    assert result.exit_code == 0, result.output
    found = summary(run)
    assert found["repaired"] == {}
    assert 0 < max(found["lipschitz_bound"].values()) < 1
    assert evaluations(run)
    for row in evaluations(run):
        assert 0 < row["lipschitz_bound"] < 1
        assert row["lipschitz_bound_of"] in found["lipschitz_bound"]
        assert "repaired" not in row
        assert row["standard_error"] > 0
    last = evaluations(run)[-1]
    assert found["lipschitz_bound"][last["lipschitz_bound_of"]] == last["lipschitz_bound"]


@pytest.mark.usefixtures("few_digits")
def test_where_nothing_must_be_a_contraction_no_bound_is_told(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = cli("image", *COUPLINGS, "--iterations", 1, "--out", run)
    assert result.exit_code == 0, result.output
    assert all("lipschitz_bound" not in row for row in evaluations(run))
    assert "lipschitz_bound" not in summary(run)


def blow_up(upkeep: LipschitzUpkeep) -> None:
    """Weights that moved far, of which the estimates know nothing."""
    for layer in lipschitz_layers(upkeep.model)[:2]:
        layer.weight.add_(torch.randn_like(layer.weight), alpha=3.0)


def forget(upkeep: LipschitzUpkeep) -> None:
    """Estimates that see nothing of weights that are too large."""
    for layer in lipschitz_layers(upkeep.model)[:2]:
        layer.direction.zero_()
        layer.weight.normal_(std=3.0)


@pytest.mark.parametrize("broken", [blow_up, forget])
def test_a_layer_that_broke_while_training_is_caught_at_the_next_evaluation(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: Break,
) -> None:
    follow = LipschitzUpkeep.after_optimizer_step

    def break_at_the_end(self: LipschitzUpkeep, step: int) -> None:
        follow(self, step)
        if step == 6:
            with torch.no_grad():
                broken(self)

    def no_preparation(self: LipschitzUpkeep) -> None:
        """Iterations before a test would mend the estimates: the certificate stands alone."""

    monkeypatch.setattr(LipschitzUpkeep, "after_optimizer_step", break_at_the_end)
    monkeypatch.setattr(LipschitzUpkeep, "prepare_test", no_preparation)
    run = tmp_path / "run"
    result = cli("toy2d", *TOY, "--out", run)
    assert result.exit_code == 0, result.output
    found = summary(run)
    ((name, bound),) = found["repaired"].items()
    assert bound > 1
    assert f"the certified bound of {name} was {bound:.4f}: scaled down" in result.stderr
    assert max(found["lipschitz_bound"].values()) < 1
    for row in evaluations(run):
        assert row["lipschitz_bound"] < 1
        assert row.get("repaired", {}) == ({name: bound} if row["step"] == 6 else {})
    # What was changed for a test is put back; who loads the weights is told again.
    tested = cli("evaluate", run)
    assert f"the certified bound of {name} was" in tested.stderr


def test_a_lost_bound_is_repaired_and_the_map_is_named() -> None:
    config = Toy2dConfig(blocks=2, growth=4, depth=1)
    flow = build_flow(config)
    upkeep = build_upkeep(config, flow)
    assert isinstance(upkeep, LipschitzUpkeep)
    sound = upkeep.certify()
    assert sound.repaired == {}
    assert sound.bounds == lipschitz_certificate(flow)
    assert sound.summary() == {"repaired": {}, "lipschitz_bound": sound.bounds}
    with torch.no_grad():
        forget(upkeep)
    before = lipschitz_certificate(flow)
    mended = upkeep.certify()
    ((name, bound),) = mended.repaired.items()
    assert name.endswith("layers.0.g")
    assert bound == before[name] > 1
    assert mended.bounds == lipschitz_certificate(flow)
    assert max(mended.bounds.values()) < 1
    assert mended.row()["repaired"] == {name: bound}


def test_weights_without_a_certificate_are_refused() -> None:
    config = Toy2dConfig(blocks=2, growth=4, depth=1)
    flow = build_flow(config)
    upkeep = build_upkeep(config, flow)
    with torch.no_grad():
        lipschitz_layers(flow)[0].weight.fill_(float("nan"))
    with pytest.raises(TrainingFailure, match="no certificate for these weights"):
        upkeep.certify()


def test_models_that_promise_nothing_have_an_empty_row() -> None:
    assert Certificate().row() == {}
    assert Certificate().summary() == {"repaired": {}}
