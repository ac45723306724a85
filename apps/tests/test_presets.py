"""Presets say what the published commands say."""

import re

import pytest
import torch
from flow_apps.experiments import EXPERIMENTS, all_presets, find_preset
from flow_apps.experiments.fit1d.build import build_parts, build_upkeep
from flow_apps.experiments.fit1d.config import Fit1dConfig
from flow_apps.experiments.fit1d.model import build_flow
from flow_apps.experiments.glow.config import GlowConfig
from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.training import Batch

_CONTRACTIVE = [
    preset.name
    for _, preset in all_presets()
    if isinstance(preset.config, Fit1dConfig | Toy2dConfig) and "--" in preset.published
]


@pytest.mark.parametrize("name", _CONTRACTIVE)
def test_flags_of_the_published_command_are_in_the_config(name: str) -> None:
    _, preset = find_preset(name)
    config = preset.config
    assert isinstance(config, Fit1dConfig | Toy2dConfig)
    flags = dict(re.findall(r"--(\S+) ([^-\s]\S*)", preset.published))
    start = int(flags["start_learnable_concat"])
    assert config.contraction.learn_concat_from == max(start, 1)
    assert config.growth == int(flags["densenet_growth"])
    assert config.depth == int(flags["densenet_depth"])
    assert config.activation == flags["act"].lower()
    if "niters" in flags:
        assert config.training.iterations == int(flags["niters"])
        assert config.training.batch_size == int(flags["batch_size"])
        assert config.training.optimizer.learning_rate == float(flags["lr"])
        assert config.contraction.coeff == float(flags["coeff"])
        assert config.contraction.concat_bound == float(flags["lip_coeff"])


def test_concatenations_of_1d_fits_learn_from_the_first_step() -> None:
    config = find_preset("d-monotone")[1].config
    assert isinstance(config, Fit1dConfig)
    flow = build_flow(config)
    parts = build_parts(config, flow, frozenset())
    x = torch.linspace(-2, 2, 50)[:, None]
    batch = Batch(x, x.sin())
    parts.loss.initialize(batch)
    loss, _ = parts.loss(batch)
    torch.autograd.backward(loss)
    build_upkeep(config, flow).before_optimizer_step(1)
    gradients = [p.grad for n, p in parts.loss.named_parameters() if n.endswith("concat")]
    assert len(gradients) == 2
    assert all(g is not None and bool(g.any()) for g in gradients)


def glow(name: str) -> GlowConfig:
    config = find_preset(name)[1].config
    assert isinstance(config, GlowConfig)
    return config


@pytest.mark.parametrize(
    ("name", "data", "blocks", "steps"),
    [
        ("if-glow-imagenet32-readme", "imagenet32", 2, 16),
        ("if-glow-imagenet64", "imagenet64", 2, 16),
        ("if-glow-celeba32", "celeba", 3, 32),
        ("if-glow-celeba64", "celeba", 3, 32),
        ("if-glow-celeba128", "celeba", 3, 32),
    ],
)
def test_rows_of_the_readme_of_inverse_flow(name: str, data: str, blocks: int, steps: int) -> None:
    config = glow(name)
    assert config.images.data == data
    assert (config.flow.num_blocks, config.flow.block_size) == (blocks, steps)


@pytest.mark.parametrize("name", [p.name for p in EXPERIMENTS["glow"].presets])
def test_learning_rates_do_not_vanish(name: str) -> None:
    """Steps of Adam are about a learning rate: far smaller ones are lost to rounding."""
    training = glow(name).training
    optimizer = training.optimizer
    last = optimizer.learning_rate * optimizer.schedule.decay**training.iterations
    assert last * min((f for _, f in optimizer.schedule.milestones), default=1.0) > 1e-11
