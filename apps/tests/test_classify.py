"""The classify experiment and the hybrid task: published sizes, figures, pictures, resuming."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_apps
import numpy as np
import pytest
import torch
from flow_apps.config import apply_overrides
from flow_apps.config.classification import HeadsConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.errors import ConfigError
from flow_apps.experiments import find_preset
from flow_apps.experiments.classify.build import build_parts, resolve
from flow_apps.experiments.classify.config import ClassifyConfig
from flow_apps.experiments.classify.model import build_model
from flow_apps.experiments.image.build import build_model as build_image_model
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.parts.classification import class_figures, confusion, require_labels, with_classes
from flow_apps.parts.hybrid import HybridLoss
from flow_apps.parts.image_sets import images_as_read, load_images, part_under_test
from flow_apps.parts.noise import within_bins
from flow_apps.training import Batch, RunFolder, load_checkpoint
from flow_core import Dequantized
from flow_core.dequantization import bits_per_dim
from flow_core.models import FlowClassifier, HybridModel
from flow_core.settings import Settings
from flow_data import WHOLE
from flow_logdet import Exact
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

Cli = Callable[..., Any]

PUBLISHED = {
    "tiny-monotone": 604_216,
    "small-monotone": 1_640_368,
    "large-monotone": 5_784_976,
    "tiny-idensenet": 604_225,
    "small-idensenet": 1_640_404,
    "large-idensenet": 5_785_120,
}
SMALL = (
    *("--batch-size", 8, "--set", "growth=4", "--set", "depth=1", "--set", "heads.channels=6"),
    *("--set", "test_power_iterations=20"),
)
HYBRID = (
    *(
        "digits-monotone",
        "--set",
        "task=hybrid",
        "--set",
        "scales=[1,1]",
        "--set",
        "dense_blocks=0",
    ),
    *(*SMALL, "--set", "test_draws=2", "--set", "likelihood_weight=3", "--set", "milestones=[]"),
)


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["split"] == split]


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(RunFolder.open(folder).checkpoints.newest())["loss"]
    return state


def published(name: str) -> ClassifyConfig:
    config = find_preset(name)[1].config
    assert isinstance(config, ClassifyConfig)
    return config


def few_images(root: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), side: int = 8) -> Path:
    """Small pictures, those of a class of one brightness, in the layout of torchvision."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for level, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(60 * level, 60 * level + 40, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.png")
    return root


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_published_classifiers_have_the_published_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(published(name))
    assert isinstance(model, FlowClassifier)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in model.heads.parameters()) == 258_826


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_say_what_their_commands_say(name: str) -> None:
    _, preset = find_preset(name)
    config, words = published(name), preset.published.split()
    flags = dict(zip(words[2::2], words[3::2], strict=True))
    assert "-".join(map(str, config.scales)) == flags["--nblocks"]
    assert config.activation == flags["--act"].lower()
    assert (config.block == "monotone") == (flags["--monotone_resolvent"] == "True")
    assert config.training.batch_size == int(flags["--batchsize"])
    assert config.training.optimizer.learning_rate == float(flags["--lr"])
    epoch = (50_000 - config.images.held_out) // config.training.batch_size
    assert config.training.iterations == int(flags["--nepochs"]) * epoch
    start = int(flags["--start_learnable_concat"]) * epoch
    assert config.contraction.learn_concat_from == start + 1
    assert config.training.gradient_clip is None


@pytest.mark.usefixtures("few_digits")
def test_a_run_tells_accuracy_and_certified_bounds_and_draws(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = cli("classify", *SMALL, "--iterations", 3, "--log-every", 1, "--out", run)
    assert result.exit_code == 0, result.output
    found = summary(run)
    assert found["test_accuracy"] == pytest.approx(1 - found["test_error_rate"])
    assert found["test_cross_entropy"] > 0
    assert {"best_test_accuracy", "best_step"} <= found.keys()
    assert 0 < max(found["lipschitz_bound"].values()) < 1
    (validation,) = rows(run, "validation")
    assert validation["accuracy"] == pytest.approx(1 - validation["error_rate"])
    assert validation["lipschitz_bound"] < 1
    assert {"cross_entropy", "accuracy"} <= rows(run, "train")[-1].keys()
    for picture in ("confusion_000003.png", "learning_curve.png"):
        assert (run / "figures" / picture).stat().st_size > 1000
    assert isinstance(flow_apps.load_model(run), FlowClassifier)
    tested = cli("evaluate", run)
    assert f"test_accuracy: {found['test_accuracy']}" in tested.output, tested.output
    nats = np.load(run / "evaluation" / "cross_entropies.npy")
    assert nats.mean() == pytest.approx(found["test_cross_entropy"], rel=1e-6)
    assert "nothing to sample" in cli("sample", run).output
    with pytest.raises(ConfigError, match=r"FlowClassifier and no flow.*load_model"):
        flow_apps.load_flow(run)


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("command", [("classify", *SMALL), ("image", *HYBRID)], ids=["c", "hybrid"])
def test_a_resumed_run_is_the_run_that_did_not_stop(
    cli: Cli, tmp_path: Path, command: tuple[object, ...]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--log-every", 1, "--set", "evaluate_every=2")
    assert cli(*command, *options, "--iterations", 4, "--out", whole).exit_code == 0
    first = cli(*command, *options, "--iterations", 2, "--out", parts)
    assert first.exit_code == 0, first.output
    assert cli(command[0], "--resume", "--iterations", 4, "--out", parts).exit_code == 0
    one, other = weights(whole), weights(parts)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    times = {"seconds_per_step", "cpu_seconds_per_step", "first_steps_seconds"}
    results = [{k: v for k, v in summary(f).items() if k not in times} for f in (whole, parts)]
    assert results[0] == results[1]


def test_the_best_weights_are_those_of_the_highest_accuracy(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: None
) -> None:
    accuracies = iter([0.5, 0.25, 0.75, 0.625])

    def told(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        right = torch.full((len(labels),), next(accuracies, 0.0))
        return {"cross_entropy": right, "accuracy": right, "error_rate": 1 - right}

    monkeypatch.setattr("flow_apps.parts.classification.class_figures", told)
    run = tmp_path / "run"
    options = (*SMALL, "--set", "evaluate_every=1", "--iterations", 4)
    result = cli("classify", *options, "--out", run)
    assert result.exit_code == 0, result.output
    # Cross-entropy, which here is lowest at the second step, does not choose.
    assert summary(run)["best_step"] == 3


def test_a_folder_tells_its_classes_and_is_learnt(cli: Cli, tmp_path: Path) -> None:
    root, run = few_images(tmp_path / "pictures"), tmp_path / "run"
    images_as_read.cache_clear()
    options = (*SMALL, "--set", "data=folder", "--data-root", root, "--set", "held_out=6")
    more = ("--iterations", 40, "--lr", 0.02, "--set", "augment=crop", "--set", "ema_decay=null")
    result = cli("classify", *options, *more, "--out", run)
    assert result.exit_code == 0, result.output
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["heads"]["classes"] == 3
    assert summary(run)["test_accuracy"] == 1


def test_labels_that_the_model_has_no_class_for_are_refused(cli: Cli, tmp_path: Path) -> None:
    root = few_images(tmp_path / "pictures")
    images_as_read.cache_clear()
    options = (*SMALL, "--set", "data=folder", "--data-root", root, "--set", "held_out=6")
    result = cli("classify", *options, "--set", "classes=2", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "labels from 0 to 1 in train, got 0 to 2; give --set classes=3" in result.stderr


def test_a_class_without_test_images_shifts_no_labels(tmp_path: Path) -> None:
    root = few_images(tmp_path / "pictures")
    shutil.rmtree(root / "test" / "ant")
    images_as_read.cache_clear()
    config = ImagesConfig(data="folder", data_root=str(root), held_out=3)
    assert load_images(config).test.labels.tolist() == [1, 1, 1, 2, 2, 2]
    (root / "test" / "cat").rename(root / "test" / "dog")
    images_as_read.cache_clear()
    with pytest.raises(ConfigError, match=r"got -1 to 2; use .* the classes of train/ in test/"):
        require_labels(load_images(config), 3)


def test_classes_are_known_by_name_or_asked_for() -> None:
    heads = HeadsConfig()
    assert heads.classes_of(ImagesConfig(data="cifar100")) == 100
    assert with_classes(heads, ImagesConfig(data="cifar10")) is heads
    with pytest.raises(ConfigError, match="classes: expected the number of classes of folder"):
        heads.classes_of(ImagesConfig(data="folder"))


def test_parts_that_are_tested_are_spread_over_all_classes(tmp_path: Path) -> None:
    root = few_images(tmp_path / "pictures")
    images_as_read.cache_clear()
    config = ImagesConfig(data="folder", data_root=str(root), held_out=3, test_size=3)
    part = part_under_test(load_images(config), config, "test")
    assert part.labels.tolist() == [0, 1, 2]


@pytest.mark.usefixtures("few_digits")
def test_noise_is_that_of_the_batch_or_none() -> None:
    config = apply_overrides(ClassifyConfig(), {"batch_size": 8, "growth": 4})
    assert isinstance(config, ClassifyConfig)
    model = build_model(config)
    parts = build_parts(config, model, frozenset())
    batch = parts.data.batch(1, WHOLE)
    parts.loss.initialize(batch)
    assert batch.noise is not None
    assert batch.y is not None
    loss, scalars = parts.loss(batch)
    expected = cross_entropy(model(within_bins(batch.x, 17, batch.noise)), batch.y)
    assert torch.equal(loss, expected)
    figures = class_figures(model(within_bins(batch.x, 17, batch.noise)), batch.y)
    assert scalars["accuracy"] == figures["accuracy"].mean()
    torch.testing.assert_close(figures["cross_entropy"].mean(), loss.detach())
    quiet = build_parts(apply_overrides(config, {"noise": False}), model, frozenset())
    again, _ = quiet.loss(Batch(batch.x, batch.y, 1 - batch.noise))
    middle = (batch.x + 0.5) / 17
    assert torch.equal(again, cross_entropy(model(middle), batch.y))


def test_confusion_counts_what_was_said_of_each_class() -> None:
    said, labels = torch.tensor([0, 2, 2, 1]), torch.tensor([0, 2, 1, 1])
    logits = torch.nn.functional.one_hot(said, 3).float()
    assert confusion(logits, labels).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


@pytest.mark.usefixtures("few_digits")
def test_resolving_changes_nothing_that_is_known() -> None:
    config = ClassifyConfig()
    assert resolve(config) == config


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mean", [], "mean: expected a number for each channel"),
        ("std", [0.1, 0.2], "std: expected a positive number for each of 1 means"),
        ("scales", [], "scales: expected positive integers"),
        ("heads.channels", 0, "channels: expected a positive integer"),
        ("heads.classes", 1, "classes: expected 2 or more"),
    ],
)
def test_configs_that_cannot_be_are_refused(key: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        apply_overrides(ClassifyConfig(), {key: value})


@pytest.mark.usefixtures("few_digits")
def test_a_hybrid_tells_both_and_samples(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = cli("image", *HYBRID, "--iterations", 2, "--log-every", 1, "--out", run)
    assert result.exit_code == 0, result.output
    found = summary(run)
    bits, nats = found["test_bits_per_dim"], found["test_cross_entropy"]
    assert found["test_loss"] == pytest.approx(3 * bits + nats / np.log(2))
    (validation,) = rows(run, "validation")
    whole = 3 * validation["bits_per_dim"] + validation["cross_entropy"] / np.log(2)
    assert validation["loss"] == pytest.approx(whole)
    assert {"accuracy", "lipschitz_bound"} <= validation.keys()
    assert 0 < validation["standard_error"] < validation["bits_per_dim"]
    assert 0 < validation["loss_standard_error"] < validation["loss"]
    train = rows(run, "train")[-1]
    whole = 3 * train["bits_per_dim"] + train["cross_entropy"] / np.log(2)
    assert train["loss"] == pytest.approx(whole, rel=1e-5)
    assert isinstance(flow_apps.load_flow(run), Dequantized)
    assert isinstance(flow_apps.load_model(run), HybridModel)
    sampled = cli("sample", run, "--count", 2)
    assert sampled.exit_code == 0, sampled.output
    tested = cli("evaluate", run)
    assert f"test_accuracy: {found['test_accuracy']}" in tested.output, tested.output
    for kind in ("confusion", "samples", "reconstructions"):
        assert (run / "figures" / f"{kind}_000002.png").stat().st_size > 1000


@pytest.mark.usefixtures("few_digits")
def test_a_hybrid_with_padding_tells_bits_of_the_image_alone(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = cli("image", *HYBRID, "--set", "padding=1", "--iterations", 1, "--out", run)
    assert result.exit_code == 0, result.output
    sampled = cli("sample", run, "--count", 2)
    assert sampled.exit_code == 0, sampled.output
    (samples,) = (np.load(file) for file in (run / "samples").glob("*.npy"))
    assert samples.shape == (2, 1, 8, 8)
    tested = cli("evaluate", run)
    assert tested.exit_code == 0, tested.output
    nats = np.load(run / "evaluation" / "log_likelihoods.npy")
    bits = summary(run)["test_bits_per_dim"]
    assert bits == pytest.approx(-nats.mean() / (64 * np.log(2)), rel=1e-5)


@pytest.mark.usefixtures("few_digits")
def test_hybrids_take_importance_samples_as_densities_do(cli: Cli, tmp_path: Path) -> None:
    bits: dict[int, float] = {}
    for samples in (1, 20):
        run = tmp_path / str(samples)
        more = ("--set", f"importance_samples={samples}", "--iterations", 1, "--out", run)
        result = cli("image", *HYBRID, "--set", "test_size=8", *more)
        assert result.exit_code == 0, result.output
        bits[samples] = summary(run)["test_bits_per_dim"]
    assert bits[20] < bits[1]


@pytest.mark.parametrize("padding", [0, 1])
def test_the_loss_of_a_hybrid_has_gradients_of_both_terms(padding: int) -> None:
    config = ImageConfig()
    small = {"task": "hybrid", "scales": [1, 1], "growth": 4, "dense_blocks": 0}
    model = build_image_model(apply_overrides(config, small | {"padding": padding}))
    assert isinstance(model, HybridModel)
    using = Settings(estimator=Exact(limit=128))
    loss = HybridLoss(model, 2.0, using)
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(17, (6, 1, 8, 8), generator=draw, dtype=torch.uint8)
    noise = torch.rand(6, 1 + padding, 8, 8, generator=draw)
    batch = Batch(x, torch.arange(6), noise)
    loss.initialize(batch)
    value, scalars = loss(batch)
    log_prob, logits = model(x, noise=batch.noise, using=using)
    bits = bits_per_dim(log_prob, (1, 8, 8)).mean()
    nats = cross_entropy(logits, torch.arange(6))
    torch.testing.assert_close(value, 2 * bits + nats / np.log(2))
    assert scalars.keys() == {"bits_per_dim", "cross_entropy", "accuracy"}
    shared = next(p for p in model.density.parameters() if p.ndim == 4)
    both, *apart = (
        torch.autograd.grad(term, [shared], retain_graph=True)[0] for term in (value, bits, nats)
    )
    torch.testing.assert_close(both, 2 * apart[0] + apart[1] / np.log(2))
    assert all(bool(g.any()) for g in apart)


def test_a_density_has_no_heads() -> None:
    with pytest.raises(ConfigError, match="hybrid: expected task=hybrid"):
        apply_overrides(ImageConfig(), {"hybrid.likelihood_weight": 2.0})
    assert isinstance(build_image_model(ImageConfig()), Dequantized)
