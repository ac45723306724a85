"""The glow experiment: every preset at a small size, surrogates, timings and layers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_apps.config import apply_overrides
from flow_apps.config.images import ImagesConfig
from flow_apps.experiments import EXPERIMENTS, find_preset
from flow_apps.experiments.glow.build import build_model, build_parts
from flow_apps.experiments.glow.config import GlowConfig, LayersConfig, SelfNormConfig
from flow_apps.experiments.glow.tests import GlowTests
from flow_apps.figures.filters import draw_filters
from flow_apps.training import Batch, Parts, Ranks, RunFolder, Workers, load_checkpoint
from flow_core.bijection import Bijection
from flow_core.diagnostics import LayerTrace, trace_layers
from flow_data import WHOLE
from torch import Tensor

Cli = Callable[..., Any]

SMALL = (
    *(
        "--set",
        "data=digits",
        "--set",
        "augment=none",
        "--set",
        "n_bits=8",
        "--set",
        "test_draws=1",
    ),
    *("--set", "test_batch_size=16", "--set", "block_size=1", "--batch-size", 8),
)
NARROW = ("--set", "coupling_width=4")
GLOWS = [preset.name for preset in EXPERIMENTS["glow"].presets]
WORKERS = Workers(Ranks(0, 1, torch.device("cpu")), ("test",))

pytestmark = pytest.mark.usefixtures("few_digits")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def final_weights(folder: Path) -> dict[str, Tensor]:
    newest = RunFolder.open(folder).checkpoints.newest()
    state: dict[str, Tensor] = load_checkpoint(newest)["loss"]
    return state


def layers(preset: str) -> LayersConfig:
    config = find_preset(preset)[1].config
    assert isinstance(config, GlowConfig)
    return config.flow


@pytest.mark.parametrize("preset", GLOWS)
def test_every_preset_takes_a_step_and_inverts(cli: Cli, tmp_path: Path, preset: str) -> None:
    blocks = min(layers(preset).num_blocks, 2)
    run = tmp_path / "run"
    narrow = NARROW if layers(preset).architecture == "glow" else ()
    options = (*SMALL, *narrow, "--set", f"num_blocks={blocks}", "--set", "timing=false")
    result = cli("glow", preset, *options, "--iterations", 1, "--out", run)
    assert result.exit_code == 0, result.output
    found = summary(run)
    assert found["max_roundtrip_error"] < 1e-4
    assert np.isfinite(found["test_bits_per_dim"])
    assert found["images"] == "digits"
    bounds = found.get("growth_bound", {})
    if layers(preset).tap_bound is not None:
        assert bounds
        assert all(bound < 10.001 for bound in bounds.values())


def test_a_self_normalizing_run_logs_the_surrogate_beside_the_likelihood(
    cli: Cli, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = (*SMALL, *NARROW, "--set", "kernel_size=3", "--set", "num_blocks=1", "--log-every", 1)
    more = ("--set", "geco_rate=0.1", "--set", "approximate_samples=true", "--set", "verbose=true")
    evaluated = ("--set", "evaluate_train=true", "--set", "timing=true")
    command = ("glow", "small-self-normalizing-mnist", *options, *more, *evaluated)
    result = cli(*command, "--iterations", 2, "--out", run)
    assert result.exit_code == 0, result.output
    by_split = {row["split"]: row for row in rows(run)}
    train = by_split["train"]
    # The training rows are evaluated too, and come last.
    assert {"bits_per_dim", "surrogate_bits_per_dim", "reconstruction"} <= train.keys()
    first = rows(run)[0]
    assert "surrogate_bits_per_dim" in first
    assert "bits_per_dim" not in first
    validation = by_split["validation"]
    assert validation["surrogate_bits_per_dim"] != validation["bits_per_dim"]
    names = [key for key in validation if key.startswith("layer/")]
    assert sum(name.endswith("roundtrip_error") for name in names) >= 4
    timing = summary(run)["timing"]
    assert timing.keys() == {"forward", "training", "sampling", "single_sampling"}
    assert all(value["mean"] > 0 and value["calls"] >= 6 for value in timing.values())
    assert timing["forward"]["per_sample"] == pytest.approx(timing["forward"]["mean"] / 8)
    assert (run / "figures" / "exact_above_approximate_000002.png").stat().st_size > 1000
    state = final_weights(run)
    assert bool((state["geco.log_weights"] != torch.log(torch.tensor(100.0))).all())
    assert cli("evaluate", run).exit_code == 0
    assert cli("sample", run, "--count", 3).exit_code == 0


@pytest.mark.parametrize("preset", ["small-inverse-conv-mnist", "geco-selfnorm-glow-mnist"])
def test_halves_equal_the_whole_bit_for_bit(cli: Cli, tmp_path: Path, preset: str) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    options = (*SMALL, *NARROW, "--set", "timing=false", "--set", "num_blocks=1")
    assert cli("glow", preset, *options, "--iterations", 4, "--out", whole).exit_code == 0
    assert cli("glow", preset, *options, "--iterations", 2, "--out", half).exit_code == 0
    resumed = cli("glow", "--resume", "--iterations", 4, "--out", half)
    assert resumed.exit_code == 0, resumed.output
    one, other = final_weights(whole), final_weights(half)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def initialized(**changes: object) -> Parts:
    config = GlowConfig(
        images=ImagesConfig(test_batch_size=16),
        flow=LayersConfig(linear="self-normalizing", kernel_size=1, coupling_width=4, block_size=1),
    )
    changed = apply_overrides(config, {"batch_size": 8, **changes})
    parts = build_parts(changed, build_model(changed), frozenset())
    parts.loss.initialize(first_batch(parts))
    return parts


def first_batch(parts: Parts) -> Batch:
    return parts.data.batch(1, WHOLE)


def test_reconstruction_errors_enter_the_loss_with_their_weight() -> None:
    plain, heavy = (initialized(reconstruction_weight=weight) for weight in (0.0, 10.0))
    with torch.no_grad():
        for name, p in plain.loss.named_parameters():
            if name.endswith("inverse_weight"):
                p.add_(0.1)
    heavy.loss.load_state_dict(plain.loss.state_dict())
    torch.manual_seed(0)
    without, _ = plain.loss(first_batch(plain))
    torch.manual_seed(0)
    with_errors, scalars = heavy.loss(first_batch(heavy))
    errors = 2 * float(scalars["reconstruction"])
    assert errors > 0
    assert float((with_errors - without).detach()) == pytest.approx(10 * errors, rel=1e-4)


def test_exact_training_of_a_self_normalizing_flow_has_no_surrogate() -> None:
    parts = initialized(surrogate=False)
    _, scalars = parts.loss(first_batch(parts))
    assert scalars.keys() == {"bits_per_dim"}


def test_layers_are_traced_on_validation_images_and_logged_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced: list[Tensor] = []

    def spied(bijection: Bijection, x: Tensor) -> dict[str, LayerTrace]:
        traced.append(x)
        return trace_layers(bijection, x)

    monkeypatch.setattr("flow_apps.experiments.glow.tests.trace_layers", spied)
    tests = initialized(verbose=True, evaluate_train=True).tests
    assert isinstance(tests, GlowTests)
    with torch.no_grad():
        splits = ("validation", "train", "test")
        named = {split: tests.evaluate(split, 1, WORKERS) for split in splits}
    with_layers = [s for s, row in named.items() if any(k.startswith("layer/") for k in row)]
    assert with_layers == ["validation"]
    (x,) = traced
    validation = tests.images.images.validation.images
    assert torch.equal((x * 17 - 0.5).round().byte(), validation)


@pytest.mark.parametrize(
    ("linear", "kernels"), [("self-normalizing", 4), ("inverse-conv", 2), ("conv1x1", 0)]
)
def test_filters_are_drawn(
    linear: str, kernels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Mapping[str, Tensor]] = []

    def spied(filters: Mapping[str, Tensor], path: Path) -> None:
        drawn.append(filters)
        draw_filters(filters, path)

    monkeypatch.setattr("flow_apps.experiments.glow.tests.draw_filters", spied)
    size = {"kernel_size": 3} if kernels else {}
    figures = initialized(linear=linear, block_size=1, **size).figures
    assert figures is not None
    with torch.no_grad():
        figures.draw(tmp_path, 5)
    assert sum(map(len, drawn)) == kernels
    assert (tmp_path / "filters_000005.png").exists() == bool(kernels)


def test_filters_of_any_size_can_be_drawn(tmp_path: Path) -> None:
    sizes = ((1, 1, 1, 1), (20, 3, 2, 3), (9, 9, 1, 1))
    draw_filters({str(size): torch.randn(size) for size in sizes}, tmp_path / "some.png")
    draw_filters({str(k): torch.zeros(2, 2, 3, 3) for k in range(50)}, tmp_path / "many.png")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("some.png", "many.png"))


@pytest.mark.parametrize(
    ("prefix", "config"), [("flow", LayersConfig), ("self_norm", SelfNormConfig)]
)
def test_the_page_of_options_names_every_field(prefix: str, config: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "options.md").read_text()
    assert [f.name for f in fields(config) if f"`{prefix}.{f.name}`" not in page] == []


def test_the_growth_of_inverse_convolutions_is_logged(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (*SMALL, *NARROW, "--set", "timing=false", "--log-every", 1, "--iterations", 1)
    assert cli("glow", "small-inverse-conv-mnist", *options, "--out", run).exit_code == 0
    grown = rows(run)[0]["growth"]
    assert len(grown) == 2
    assert all(0 < value < 10 for value in grown.values())


def test_samples_that_are_not_finite_are_counted(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (
        *SMALL,
        *NARROW,
        "--set",
        "timing=false",
        "--set",
        "activation=selu",
        "--iterations",
        1,
    )
    assert cli("glow", *options, "--out", run).exit_code == 0
    result = cli("sample", run, "--count", 8)
    assert result.exit_code == 0
    (line,) = [line for line in result.stderr.splitlines() if "samples are not finite" in line]
    assert "layers." in line
    assert "overflowed" in line or "out of its range" in line


def test_exact_training_leaves_approximate_inverses_alone() -> None:
    parts = initialized(surrogate=False)
    loss, _ = parts.loss(first_batch(parts))
    torch.autograd.backward(loss)
    assert all(p.grad is not None for p in parts.loss.parameters() if p.requires_grad)


def test_the_learning_rate_decays_every_step(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (
        *SMALL,
        *NARROW,
        "--set",
        "decay=0.5",
        "--lr",
        0.1,
        "--set",
        "warmup=0",
        "--log-every",
        1,
    )
    assert (
        cli("glow", *options, "--set", "timing=false", "--iterations", 3, "--out", run).exit_code
        == 0
    )
    rates = [row["learning_rate"] for row in rows(run) if row["split"] == "train"]
    assert rates == [0.1, 0.05, 0.025]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "linear=inverse"), "did you mean inverse-conv"),
        (("--set", "n_bits=5"), "17 levels"),
        (("--set", "n_bits=9"), "n_bits: expected 1 to 8"),
        (("--set", "geco_rate=-1"), "geco_rate"),
        (("--set", "compile=true"), "compile: expected false"),
        (("--set", "geco_rate=0.1"), "without a surrogate"),
        (("--set", "decay=1.5"), "decay: expected in"),
        (("--set", "num_blocks=4"), "cannot be halved 4 times"),
        (("--set", "data=cifar10", "--data-root", "nowhere"), "nowhere"),
    ],
)
def test_bad_options_are_one_line(
    cli: Cli, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = cli("glow", "--set", "data=digits", *options, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert message in result.output
    lines = result.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == [lines[-1]]
    assert message in lines[-1]
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()
