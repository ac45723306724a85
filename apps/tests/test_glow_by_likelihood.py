"""Glows of the exploding-inverses code: classes, penalties, and stability while they train."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps import load_flow
from flow_apps.config.images import ImagesConfig
from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.config.stability import StabilityConfig
from flow_apps.errors import ConfigError
from flow_apps.experiments import find_preset
from flow_apps.experiments.glow.build import build_model
from flow_apps.experiments.glow.config import GlowConfig, LayersConfig
from flow_apps.experiments.glow.loss import GlowLoss, LabelledLoss
from flow_apps.training import Batch
from flow_apps.training.parts import joined
from flow_core.dequantization import Dequantized
from flow_core.models import LabelledFlow
from flow_core.settings import Settings
from torch.nn.functional import cross_entropy

Cli = Callable[..., Any]

LAYERS = LayersConfig(
    linear="none",
    mixing="reverse",
    num_blocks=2,
    block_size=1,
    coupling="sigmoid",
    coupling_width=4,
    coupling_net="normed",
    learn_top=True,
    mean=(0.5,),
    std=(1.0,),
)
PLAIN = GlowConfig(images=ImagesConfig(data="digits"), flow=LAYERS)
USING = Settings()


def batch(step: int = 1) -> Batch:
    torch.manual_seed(0)
    x = torch.randint(0, 17, (12, 1, 8, 8), dtype=torch.uint8)
    return Batch(x, torch.arange(12) % 10, torch.rand(12, 1, 8, 8), step)


def rows(run: Path, split: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def test_the_loss_of_labelled_images_is_of_their_class_and_of_the_classes() -> None:
    config = replace(PLAIN, flow=replace(LAYERS, classes=10), y_weight=0.3)
    model = build_model(config)
    assert isinstance(model, LabelledFlow)
    loss = LabelledLoss(model, config.y_weight, USING, RegularizersConfig())
    loss.initialize(batch())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    total, scalars = loss(batch())
    x, y, noise, _ = batch()
    told = model(x, noise=noise)
    assert y is not None
    of_class = told.log_prob_of_classes[torch.arange(12), y]
    classes = cross_entropy(told.logits, y)
    torch.testing.assert_close(total, -of_class.mean() + 0.3 * 64 * math.log(2) * classes)
    bits = -of_class.mean() / (64 * math.log(2))
    torch.testing.assert_close(scalars["bits_per_dim_of_class"], bits.detach())
    gradients = torch.autograd.grad(total, list(model.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_the_penalty_on_jacobians_is_added_at_its_steps() -> None:
    model = build_model(PLAIN)
    assert isinstance(model, Dequantized)
    penalised = GlowLoss(model, USING, RegularizersConfig(jacobian=2.0, every=2))
    penalised.initialize(batch())
    alone, told = penalised(batch(step=1))
    assert "jacobian_penalty" not in told
    total, told = penalised(batch(step=2))
    expected = alone + 2.0 * told["jacobian_penalty"]
    torch.testing.assert_close(total, expected)
    assert float(told["jacobian_penalty"]) > 0
    gradients = torch.autograd.grad(
        total - alone, list(model.flow.bijection.parameters()), allow_unused=True
    )
    assert any(g is not None and bool(g.any()) for g in gradients)


def test_a_run_with_classes_and_its_stability(cli: Cli, tmp_path: Path, few_digits: None) -> None:
    run = tmp_path / "run"
    options = {
        "data": "digits",
        "block_size": 1,
        "num_blocks": 2,
        "coupling_width": 4,
        "evaluate_every": 2,
        "figures_every": 4,
        "stability.every": 4,
        "stability.images": 3,
        "test_draws": 1,
    }
    sets = [text for k, v in options.items() for text in ("--set", f"{k}={v}")]
    size = ("--batch-size", 8, "--iterations", 6)
    result = cli("glow", "cifar10-mle-small-classes", *sets, *size, "--out", run)
    assert result.exit_code == 0, result.output
    measured = [row for row in rows(run, "stability") if "condition" in row]
    assert [row["step"] for row in measured] == [4, 6]
    assert all(0 < row["reconstruction64"] < 1e-9 for row in measured)
    assert all(row["condition"] >= 1 for row in measured)
    seen = rows(run, "validation")[-1]
    assert 0 <= seen["accuracy"] <= 1
    assert math.isfinite(seen["bits_per_dim_of_class"])
    assert (run / "figures" / "stability.png").stat().st_size > 1000
    flow = load_flow(run)
    assert isinstance(flow, Dequantized)
    assert flow.sample((2,)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regularizers": RegularizersConfig(density=1.0)}, "density: expected 0"),
        ({"y_weight": -1.0}, "y_weight: expected 0 or more"),
        ({"stability": StabilityConfig(every=150)}, "multiple of evaluate_every=100, got 150"),
        (
            {
                "flow": LayersConfig(linear="self-normalizing"),
                "regularizers": RegularizersConfig(jacobian=1.0),
            },
            "surrogate: expected false",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GlowConfig(**change)


@pytest.mark.parametrize(
    "setting",
    [
        "coupling_eps=0.1",
        "coupling_shift=1",
        "coupling_bound=1",
        "coupling_coeff=0.5",
        "y_weight=1",
        "alpha=0.1",
    ],
)
def test_options_without_effect_are_refused(cli: Cli, tmp_path: Path, setting: str) -> None:
    preset = "cifar10-mle-small-additive"
    result = cli("glow", preset, "--set", setting, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "no effect" in result.output


def test_what_depends_on_data_is_set_from_several_batches() -> None:
    parts = [batch(step) for step in range(1, 4)]
    together = joined(parts)
    assert torch.equal(together.x, torch.cat([part.x for part in parts]))
    assert together.y is not None
    assert together.noise is not None
    assert len(together.y) == len(together.noise) == 36
    assert joined(parts[:1]) is parts[0]
    assert joined([Batch(torch.ones(2)), Batch(torch.zeros(1))]).y is None


def test_published_presets_are_those_of_the_script() -> None:
    for name, shift, eps in (("additive", 2.0, None), ("affine", 2.0, 0.01)):
        config = find_preset(f"cifar10-mle-{name}")[1].config
        assert isinstance(config, GlowConfig)
        flow, optimizer = config.flow, config.training.optimizer
        assert (flow.num_blocks, flow.block_size, flow.coupling_width) == (3, 32, 512)
        assert (flow.mixing, flow.coupling_shift, flow.coupling_eps) == ("reverse", shift, eps)
        assert (optimizer.name, optimizer.learning_rate) == ("adamax", 5e-4)
        assert optimizer.weight_decay == 5e-5
