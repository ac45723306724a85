"""Presets say what the published commands say, and run."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flow_apps.experiments import EXPERIMENTS, all_presets, find_preset
from flow_apps.experiments.fit1d.build import build_parts, build_upkeep
from flow_apps.experiments.fit1d.config import Fit1dConfig
from flow_apps.experiments.fit1d.model import build_flow
from flow_apps.experiments.glow.config import GlowConfig
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.training import Batch
from typer.testing import Result

Cli = Callable[..., Result]

_CONTRACTIVE = [
    preset.name
    for _, preset in all_presets()
    if isinstance(preset.config, Fit1dConfig | Toy2dConfig) and "--densenet" in preset.published
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


_IMPLICIT = {p.name: p for p in EXPERIMENTS["toy2d"].presets if "--arch" in p.published}


@pytest.mark.parametrize("name", _IMPLICIT)
def test_flags_of_the_toys_of_implicit_flows_are_in_the_config(name: str) -> None:
    preset = _IMPLICIT[name]
    config, flags = preset.config, dict(re.findall(r"--(\S+) ([^-\s]\S*)", preset.published))
    assert (config.density, config.block) == (flags["data"], flags["arch"])
    assert config.blocks == int(flags["nblocks"])
    assert [config.width] * config.depth == list(map(int, flags["dims"].split("-")))
    assert (config.net, config.activation) == ("feedforward", flags["act"])
    assert config.contraction.coeff == float(flags["coeff"])
    training = config.training
    assert training.batch_size == int(flags["batch_size"])
    assert training.iterations == int(flags["niters"])
    assert training.optimizer.learning_rate == float(flags["lr"])
    assert training.optimizer.weight_decay == 0


def test_toys_of_implicit_flows_have_the_published_numbers_of_parameters(cli: Cli) -> None:
    """The published code counts a number a block that its estimator is made of."""
    result = cli("presets", "--json", *_IMPLICIT, "checkerboard-resflow")
    listed = {row["name"]: row for row in json.loads(result.stdout)}
    assert len(_IMPLICIT) == 8
    assert {listed[name]["parameters"] for name in _IMPLICIT} == {205_854 - 6}
    assert listed["checkerboard-resflow"]["parameters"] == 205_854 - 6


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


def image(name: str) -> ImageConfig:
    config = find_preset(name)[1].config
    assert isinstance(config, ImageConfig)
    return config


_IMAGES = {p.name: p.published for p in EXPERIMENTS["image"].presets}
_PUBLISHED = [name for name, published in _IMAGES.items() if "train_img.py" in published]
_ACTIVATIONS = {"CPila": "cpila", "CLipSwish": "clipswish", "swish": "lipswish"}


@pytest.mark.parametrize("name", _PUBLISHED)
def test_flags_of_the_published_image_command_are_in_the_config(name: str) -> None:
    config, flags = image(name), dict(re.findall(r"--(\S+) (\S+)", _IMAGES[name]))
    training = config.training
    assert config.images.data == flags["data"]
    assert config.scales == tuple(map(int, flags["nblocks"].split("-")))
    assert config.activation == _ACTIVATIONS[flags["act"]]
    assert (config.dense_blocks == 4) is (flags["fc-end"] == "True")
    assert config.squeeze_first is config.factor_out is ("squeeze-first" in flags)
    assert training.accumulate == int(flags["update-freq"])
    assert training.batch_size == int(flags["batchsize"]) * training.accumulate
    assert training.optimizer.learning_rate == float(flags["lr"])
    assert training.optimizer.options == {"betas": (0.9, 0.99)}
    assert training.optimizer.schedule.warmup * training.accumulate == int(flags["warmup-iters"])
    assert (training.gradient_clip, training.ema_decay) == (1.0, 0.999)
    assert config.estimator.recompute is (flags["mem-eff"] == "True")
    assert training.iterations == int(flags["nepochs"]) * training.evaluate_every
    assert (config.dequantizer.kind == "variational") is ("var-deq" in flags)
    assert config.contraction.coeff == float(flags.get("coeff", "0.98"))
    if "densenet" in flags:
        assert (config.depth, config.growth) == (
            int(flags["densenet_depth"]),
            int(flags["densenet_growth"]),
        )
        start = int(flags["start_learnable_concat"]) * training.evaluate_every
        assert config.contraction.learn_concat_from == start + 1
        assert config.block == ("monotone" if flags["monotone_resolvent"] == "True" else "residual")


# The published code of Residual Flows counts two numbers a block that its estimator is made of.
_NUMBERS_OF_ESTIMATORS = 2 * 52
_SIZES = {
    "mnist-monotone-full": 20_872_826,
    "cifar10-monotone": 24_894_430,
    "cifar10-idensenet": 24_894_586,
    "cifar10-idensenet-cpila": 24_894_430,
    "cifar10-monotone-clipswish": 24_894_586,
    "imagenet32-monotone": 46_980_574,
    "imagenet64-monotone": 48_907_888,
    "cifar10-vdq": 46_891_648,
    "imagenet32-vdq": 68_977_792,
    "imagenet32-vdq-readme": 66_169_512,
    "cifar10-residualflow": 25_174_233 - _NUMBERS_OF_ESTIMATORS,
    "mnist-residualflow": 16_608_589,
    # That of Implicit Normalizing Flows counts one number a block.
    "cifar10-impflow": 5_480_998 - 6,
    # As many maps, and six ActNorms more.
    "cifar10-resflow": 5_481_245,
}


def test_published_models_have_the_published_numbers_of_parameters(cli: Cli) -> None:
    result = cli("presets", "--json", *{*_SIZES, *_PUBLISHED})
    listed = {row["name"]: row for row in json.loads(result.stdout)}
    assert {name: listed[name]["parameters"] for name in _SIZES} == _SIZES
    assert all(listed[name]["published"].startswith("python train_img.py") for name in _PUBLISHED)


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("name", [*_PUBLISHED, "cifar10-resflow"])
def test_published_image_models_take_a_step(name: str, cli: Cli, tmp_path: Path) -> None:
    """On 8x8 digits, with as many scales and the same kinds of layers."""
    run, config = tmp_path / "run", image(name)
    blocks = [1] * len(config.scales)
    smaller = {
        **{"data": "digits", "augment": "none", "test_draws": 1, "scales": blocks},
        **{"dense_blocks": min(config.dense_blocks, 1), "learn_concat_from": 1},
        **{"accumulate": min(config.training.accumulate, 2), "test_power_iterations": 5},
    }
    dense = config.net == "dense"
    smaller |= {"growth" if dense else "width": 4}
    if config.dense_blocks:
        smaller |= {"dense_growth" if dense else "dense_width": 4}
    if config.dequantizer.kind == "variational":
        smaller |= {f"dequantizer.{name}": 16 for name in ("width", "inner")}
        smaller |= {"dequantizer.growth": 4, "dequantizer.steps": 1}
    options = [word for key, value in smaller.items() for word in ("--set", f"{key}={value}")]
    result = cli("image", name, *options, "--batch-size", 8, "--iterations", 1, "--out", run)
    assert result.exit_code == 0, result.output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 1
    assert 0 < summary["test_bits_per_dim"] < 20
    assert all(bound < 1 for bound in summary["lipschitz_bound"].values())
