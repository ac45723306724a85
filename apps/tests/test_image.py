"""Facts of contractive image models and of how they are trained."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.config import TrainingConfig, apply_overrides
from flow_apps.config.dequantization import NoiseConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.errors import ConfigError
from flow_apps.experiments.image.build import build_model, build_parts
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.training import Parts, Ranks, RunFolder, Workers, load_checkpoint
from flow_data import WHOLE
from torch import Tensor
from typer.testing import Result

Cli = Callable[..., Result]

SMALL = (
    *("--set", "scales=[4,4]", "--set", "dense_blocks=1", "--set", "test_draws=1"),
    *("--batch-size", 8),
)
WIDE = ("width=4", "dense_width=4")
BLOCKS = ("depth=1", "test_power_iterations=5")
DENSE = (*BLOCKS, "growth=4", "dense_growth=4")
WORKERS = Workers(Ranks(0, 1, torch.device("cpu")), ("test",))

pytestmark = pytest.mark.usefixtures("few_digits")


def weights(folder: Path) -> dict[str, Tensor]:
    newest = RunFolder.open(folder).checkpoints.newest()
    state: dict[str, Tensor] = load_checkpoint(newest)["loss"]
    return state


def initialized(config: ImageConfig) -> Parts:
    parts = build_parts(config, build_model(config), frozenset())
    parts.loss.initialize(parts.data.batch(1, WHOLE))
    return parts


@pytest.mark.parametrize(
    "options",
    [
        ("block=coupling", *WIDE),
        (
            *("net=feedforward", "kernels=[3,1]", "activation=lipswish", "block=residual"),
            *(*BLOCKS, *WIDE),
        ),
        ("net=feedforward", "kernels=[3,1]", "dropout=0.25", *BLOCKS, *WIDE),
        ("dense_entrance=3", "actnorm=false", "squeeze_first=true", "scales=[1,1]", *DENSE),
        ("padding=1", "padding_noise=normal", "factor_out=true", "figures_every=1", *DENSE),
        ("padding=2", "dequantizer.kind=variational", "dequantizer.steps=1", *DENSE),
        ("dequantizer.kind=variational", "dequantizer.steps=1", *DENSE),
    ],
    ids=" ".join,
)
def test_every_kind_of_layer_trains_and_inverts(
    cli: Cli, tmp_path: Path, options: tuple[str, ...]
) -> None:
    run, sets = tmp_path / "run", [word for option in options for word in ("--set", option)]
    result = cli("image", *SMALL, *sets, "--iterations", 2, "--out", run)
    assert result.exit_code == 0, result.output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["max_roundtrip_error"] < 1e-4
    assert 0 < summary["test_bits_per_dim"] < 20


def test_accumulated_gradients_are_those_of_the_batch(cli: Cli, tmp_path: Path) -> None:
    # Couplings, whose log-determinants are no estimates.
    sizes = [word for size in WIDE for word in ("--set", size)]
    small = (*SMALL, *sizes, "--set", "block=coupling")
    options = (*small, "--set", "optimizer.name=sgd", "--lr", 0.1)
    states = list[dict[str, Tensor]]()
    for passes in (1, 4):
        run = tmp_path / str(passes)
        command = ("image", *options, "--set", f"accumulate={passes}", "--iterations", 3)
        assert cli(*command, "--out", run).exit_code == 0
        states.append(weights(run))
    for name, expected in states[0].items():
        torch.testing.assert_close(states[1][name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_parts_of_a_batch_are_equal(cli: Cli, tmp_path: Path) -> None:
    result = cli("image", *SMALL, "--set", "accumulate=3", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "accumulate: expected a divisor of batch_size=8, got 3" in result.output


def test_importance_weights_make_the_tested_bound_tighter() -> None:
    images = ImagesConfig(test_size=16, test_draws=4)
    noise = NoiseConfig(kind="variational", block="residual", width=16, inner=16, growth=4, depth=1)
    found = list[float]()
    for samples in (1, 8):
        config = ImageConfig(
            images=replace(images, importance_samples=samples),
            block="coupling",
            scales=(1,),
            width=4,
            dense_blocks=0,
            dequantizer=noise,
            training=TrainingConfig(batch_size=8),
        )
        tests = initialized(config).tests
        torch.manual_seed(0)
        with torch.no_grad():
            tested = tests.test(WORKERS)
        assert tested.values.shape == (16,)
        found.append(float(tested.values.mean()))
    assert found[1] > found[0] + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("net=feedforward", "kernels=[3,2,3]"), "kernels: expected odd positive sizes"),
        (("net=feedforward", "kernels=[3,1]"), "kernels: expected depth + 1 = 3 sizes"),
        (("dropout=0.5",), "dropout: expected 0, dense nets have none"),
        (("net=feedforward", "dense_entrance=4"), "have no entrance"),
        (
            ("dequantizer.kind=variational", "dequantizer.block=residual", "dequantizer.width=36"),
            "width: expected a multiple of 16, got 36",
        ),
        (("block=glow",), "block: expected"),
    ],
)
def test_bad_options_are_one_line(
    cli: Cli, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    sets = [word for option in options for word in ("--set", option)]
    result = cli("image", *SMALL, *sets, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("prefix", "config"), [("", ImageConfig), ("dequantizer.", NoiseConfig)])
def test_the_page_of_options_names_every_field(prefix: str, config: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "options.md").read_text()
    sections = {"images", "contraction", "estimator", "training", "dequantizer", "hybrid"}
    names = [f.name for f in fields(config) if f.name not in sections]
    assert [name for name in names if f"`{prefix}{name}`" not in page] == []


def test_blocks_of_noise_are_refused_where_noise_is_uniform() -> None:
    with pytest.raises(ConfigError, match="block: expected kind=variational for residual blocks"):
        apply_overrides(ImageConfig(), {"dequantizer.block": "residual"})
    noisy = {"dequantizer.kind": "variational", "dequantizer.block": "residual"}
    config = apply_overrides(ImageConfig(), noisy)
    assert isinstance(config, ImageConfig)
    quiet = apply_overrides(config, {"dequantizer.kind": "uniform"})
    assert quiet.dequantizer == NoiseConfig()
