"""The glow experiment: every preset at a small size, surrogates, timings and layers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_apps.experiments import GlowConfig
from flow_apps.experiments.glow import GlowObjective, SelfNormConfig
from flow_apps.experiments.image_sets import ImagesConfig, augmented, load_images
from flow_apps.figures.filters import draw_filters
from flow_apps.presets import PRESETS
from flow_apps.timing import time_calls
from flow_apps.training import RunFolder, apply_overrides
from flow_core.bijection import Bijection
from flow_core.diagnostics import LayerTrace, trace_layers
from flow_core.models import FlowConfig
from flow_data import DataError, ImageSet, ImageSplits
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
    *("--set", "test_batch_size=16", "--set", "coupling_width=4", "--set", "block_size=1"),
    *("--batch-size", 8),
)
GLOWS = [preset.name for preset in PRESETS.values() if preset.experiment == "glow"]


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(digits: ImageSet) -> ImageSplits:
        parts = [digits.select(torch.arange(16 * k, 16 * k + 16)) for k in range(3)]
        return ImageSplits(*parts)

    monkeypatch.setattr("flow_apps.experiments.image_sets.digits_splits", few)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


@pytest.mark.parametrize("preset", GLOWS)
def test_every_preset_takes_a_step_and_inverts(cli: Cli, tmp_path: Path, preset: str) -> None:
    blocks = min(PRESETS[preset].config.flow.num_blocks, 2)  # type: ignore[union-attr] # of a glow
    run = tmp_path / "run"
    options = (*SMALL, "--set", f"num_blocks={blocks}", "--set", "timing=false")
    result = cli("glow", preset, *options, "--iterations", 1, "--out", run)
    assert result.exit_code == 0, result.output
    found = summary(run)
    assert found["max_roundtrip_error"] < 1e-4
    assert np.isfinite(found["test_bits_per_dim"])
    assert found["images"] == "digits"
    bounds = found.get("growth_bound", {})
    if PRESETS[preset].config.flow.tap_bound is not None:  # type: ignore[union-attr] # of a glow
        assert bounds
        assert all(bound < 10.001 for bound in bounds.values())


def test_a_self_normalizing_run_logs_the_surrogate_beside_the_likelihood(
    cli: Cli, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = (*SMALL, "--set", "kernel_size=3", "--set", "num_blocks=1", "--log-every", 1)
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
    state: dict[str, Tensor] = RunFolder.open(run).checkpoints.newest()["objective"]
    assert bool((state["geco.log_weights"] != torch.log(torch.tensor(100.0))).all())
    assert cli("evaluate", run).exit_code == 0
    assert cli("sample", run, "--count", 3).exit_code == 0


@pytest.mark.parametrize("preset", ["small-inverse-conv-mnist", "geco-selfnorm-glow-mnist"])
def test_halves_equal_the_whole_bit_for_bit(cli: Cli, tmp_path: Path, preset: str) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    options = (*SMALL, "--set", "timing=false", "--set", "num_blocks=1")
    assert cli("glow", preset, *options, "--iterations", 4, "--out", whole).exit_code == 0
    assert cli("glow", preset, *options, "--iterations", 2, "--out", half).exit_code == 0
    resumed = cli("glow", "--resume", "--iterations", 4, "--out", half)
    assert resumed.exit_code == 0, resumed.output
    one, other = (RunFolder.open(f).checkpoints.newest()["objective"] for f in (whole, half))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def objective(**changes: object) -> GlowObjective:
    config = GlowConfig(
        images=ImagesConfig(test_batch_size=16),
        flow=FlowConfig(linear="self-normalizing", kernel_size=1, coupling_width=4, block_size=1),
    )
    made = GlowObjective(apply_overrides(config, {"batch_size": 8, **changes}))
    made.initialize(made.batch(1))
    return made


def test_reconstruction_errors_enter_the_loss_with_their_weight() -> None:
    plain, heavy = objective(reconstruction_weight=0.0), objective(reconstruction_weight=10.0)
    with torch.no_grad():
        for name, p in plain.named_parameters():
            if name.endswith("inverse_weight"):
                p.add_(0.1)
    heavy.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    without, _ = plain(plain.batch(1))
    torch.manual_seed(0)
    with_errors, scalars = heavy(heavy.batch(1))
    errors = 2 * float(scalars["reconstruction"])
    assert errors > 0
    assert float((with_errors - without).detach()) == pytest.approx(10 * errors, rel=1e-4)


def test_exact_training_of_a_self_normalizing_flow_has_no_surrogate() -> None:
    _, scalars = objective(surrogate=False)(objective().batch(1))
    assert scalars.keys() == {"bits_per_dim"}


def test_layers_are_traced_on_validation_images_and_logged_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced: list[Tensor] = []

    def spied(bijection: Bijection, x: Tensor) -> dict[str, LayerTrace]:
        traced.append(x)
        return trace_layers(bijection, x)

    monkeypatch.setattr("flow_apps.experiments.glow.trace_layers", spied)
    model = objective(verbose=True, evaluate_train=True)
    with torch.no_grad():
        named = {split: model.evaluate(split, 1) for split in ("validation", "train", "test")}
    with_layers = [s for s, row in named.items() if any(k.startswith("layer/") for k in row)]
    assert with_layers == ["validation"]
    (x,) = traced
    assert torch.equal((x * 17 - 0.5).round().byte(), model.images.validation.images)


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

    monkeypatch.setattr("flow_apps.experiments.glow.draw_filters", spied)
    with torch.no_grad():
        objective(linear=linear, kernel_size=3, block_size=1).figures(tmp_path, 5)
    assert sum(map(len, drawn)) == kernels
    assert (tmp_path / "filters_000005.png").exists() == bool(kernels)


def test_filters_of_any_size_can_be_drawn(tmp_path: Path) -> None:
    sizes = ((1, 1, 1, 1), (20, 3, 2, 3), (9, 9, 1, 1))
    draw_filters({str(size): torch.randn(size) for size in sizes}, tmp_path / "some.png")
    draw_filters({str(k): torch.zeros(2, 2, 3, 3) for k in range(50)}, tmp_path / "many.png")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("some.png", "many.png"))


@pytest.mark.parametrize(
    ("prefix", "config"), [("flow", FlowConfig), ("self_norm", SelfNormConfig)]
)
def test_the_page_of_options_names_every_field(prefix: str, config: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "options.md").read_text()
    assert [f.name for f in fields(config) if f"`{prefix}.{f.name}`" not in page] == []


def test_the_growth_of_inverse_convolutions_is_logged(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (*SMALL, "--set", "timing=false", "--log-every", 1, "--iterations", 1)
    assert cli("glow", "small-inverse-conv-mnist", *options, "--out", run).exit_code == 0
    grown = rows(run)[0]["growth"]
    assert len(grown) == 2
    assert all(0 < value < 10 for value in grown.values())


def test_samples_that_are_not_finite_are_counted(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (*SMALL, "--set", "timing=false", "--set", "activation=selu", "--iterations", 1)
    assert cli("glow", *options, "--out", run).exit_code == 0
    result = cli("sample", run, "--count", 8)
    assert result.exit_code == 0
    assert "samples are not finite" in result.output


def test_exact_training_leaves_approximate_inverses_alone() -> None:
    model = objective(surrogate=False)
    loss, _ = model(model.batch(1))
    torch.autograd.backward(loss)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_learning_rate_decays_every_step(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (*SMALL, "--set", "decay=0.5", "--lr", 0.1, "--set", "warmup=0", "--log-every", 1)
    assert (
        cli("glow", *options, "--set", "timing=false", "--iterations", 3, "--out", run).exit_code
        == 0
    )
    rates = [row["learning_rate"] for row in rows(run) if row["split"] == "train"]
    assert rates == [0.1, 0.05, 0.025]


def npz(folder: Path, name: str, count: int, side: int = 32) -> None:
    data = np.arange(count * 3 * side * side, dtype=np.int64) % 256
    labels = np.zeros(count, dtype=np.int64)
    np.savez(folder / name, data=data.reshape(count, -1).astype(np.uint8), labels=labels)


def test_npz_files_are_put_together_and_reduced_to_bits(tmp_path: Path) -> None:
    npz(tmp_path, "train_1.npz", 4)
    npz(tmp_path, "train_2.npz", 3)
    npz(tmp_path, "val.npz", 2)
    config = ImagesConfig(data="npz", data_root=str(tmp_path), held_out=2, n_bits=5)
    parts = load_images(config)
    sizes = [len(part) for part in (parts.train, parts.validation, parts.test)]
    assert sizes == [5, 2, 2]
    assert parts.train.levels == 32
    assert parts.train.name.endswith("-5bit")


@pytest.mark.parametrize("other", ["train_2.npz", "val.npz"])
def test_images_of_different_sizes_are_refused(tmp_path: Path, other: str) -> None:
    npz(tmp_path, "train_1.npz", 4)
    npz(tmp_path, "val.npz", 2)
    npz(tmp_path, other, 2, side=64)
    with pytest.raises(DataError, match="images of one shape"):
        load_images(ImagesConfig(data="npz", data_root=str(tmp_path), held_out=2))


def test_missing_npz_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\*.npz"):
        load_images(ImagesConfig(data="npz", data_root=str(tmp_path)))


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
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_augmentation_follows_from_the_step() -> None:
    images = torch.arange(2 * 28 * 28, dtype=torch.uint8).reshape(2, 1, 28, 28)
    one, other = (augmented(images, "mnist", torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(augmented(images, "none", torch.Generator()), images)


def test_timings_leave_out_the_extremes() -> None:
    pauses = iter([9.0, *(0.01 * i for i in range(1, 11))])
    clock = [0.0]

    def call() -> None:
        clock[0] += next(pauses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flow_apps.timing.time.perf_counter", lambda: clock[0])
        timing = time_calls(call, samples=4, calls=10, device=torch.device("cpu"))
    # The first call does not count, then the two fastest and the two slowest do not.
    assert timing.calls == 6
    assert timing.mean == pytest.approx(0.055)
    assert timing.per_sample == pytest.approx(0.055 / 4)
    assert timing.deviation == pytest.approx(np.std(0.01 * np.arange(3, 9)))
