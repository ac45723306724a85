"""The inn-classify experiment: published sizes, penalties, stability figures, resuming."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.config import apply_overrides
from flow_apps.config.classification import HeadsConfig
from flow_apps.config.images import ImagesConfig
from flow_apps.config.regularizers import RegularizersConfig
from flow_apps.config.stability import StabilityConfig
from flow_apps.errors import ConfigError
from flow_apps.experiments import find_preset
from flow_apps.experiments.inn_classify.config import InnClassifyConfig
from flow_apps.experiments.inn_classify.loss import InnLoss
from flow_apps.experiments.inn_classify.model import build_model, padded
from flow_apps.figures.stability import draw_course
from flow_apps.parts.regularizers import Regularizers
from flow_apps.parts.stability import (
    extreme_singular_values,
    round_trip_figures,
    spectral_figures,
)
from flow_apps.training import Batch, RunFolder, load_checkpoint
from flow_core import DenseNet, Monotone, jacobian, update_lipschitz
from flow_core.models import LatentClassifier
from flow_core.settings import Settings, Solve
from flow_solvers import Picard, SolverError
from torch import Tensor
from torch.nn.functional import cross_entropy

Cli = Callable[..., Any]

# Without the 36,874 numbers of the batch normalisation and the linear layer.
PUBLISHED = {
    ("affine", "conv"): 8_411_136,
    ("affine", "shuffle"): 7_782_144,
    ("additive", "conv"): 6_084_672,
    ("additive", "shuffle"): 5_455_680,
}
QUICK = (
    *("--batch-size", 8, "--set", "depth=1", "--set", "width=4", "--set", "stability.every=2"),
    *("--set", "evaluate_every=2", "--set", "figures_every=9", "--set", "log_every=1"),
)


def small(**changes: Any) -> InnClassifyConfig:
    """Of 8x8 digits."""
    defaults: dict[str, Any] = {"levels": 2, "depth": 1, "width": 4}
    return InnClassifyConfig(**(defaults | changes))


def batch(config: InnClassifyConfig, count: int = 16) -> Batch:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 17, (count, *config.images.image_shape), generator=g)
    return Batch(x.to(torch.uint8), torch.arange(count) % 10)


def trained(config: InnClassifyConfig, steps: int = 3) -> tuple[LatentClassifier, Tensor]:
    """A model after some steps, and the points that it was trained on; in float64."""
    model = build_model(config)
    loss = InnLoss(model, config, Settings())
    data = batch(config)
    loss.initialize(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(loss(data)[0])
        optimizer.step()
        update_lipschitz(model)
    points = padded((data.x.double() + 0.5) / 17, config.inj_pad)
    return model.double().eval(), points


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["split"] == split]


@pytest.mark.parametrize(
    "config",
    [
        RegularizersConfig(fd_forward=1.0),
        RegularizersConfig(fd_inverse=1.0),
        RegularizersConfig(jacobian=1.0),
    ],
    ids=["fd_forward", "fd_inverse", "jacobian"],
)
def test_penalties_solve_as_they_are_told(config: RegularizersConfig) -> None:
    block = Monotone(DenseNet(3, growth=4, depth=1), solve=Solve(Picard(budget=1)))
    update_lipschitz(block, 20)
    x, using = torch.randn(4, 3), Settings(solve=Solve())
    z = block.transform(x, using=using)
    total, _ = Regularizers(config, using)(block, None, x, z, None, step=1)
    assert 0 < float(total.detach()) < math.inf
    with pytest.raises(SolverError):
        Regularizers(config)(block, None, x, z, None, step=1)


@pytest.mark.parametrize(("kind", "parameters"), PUBLISHED.items())
def test_published_networks_have_the_published_parameters(
    kind: tuple[str, str], parameters: int
) -> None:
    config = find_preset(f"cifar10-{kind[0]}-conv")[1].config
    with torch.device("meta"):
        model = build_model(replace(config, permutation=kind[1]))
    assert sum(p.numel() for p in model.bijection.parameters()) == parameters
    assert sum(p.numel() for p in model.parameters()) == parameters + 36_874


@pytest.mark.parametrize("permutation", ["conv", "shuffle"])
@pytest.mark.parametrize("ending", ["", "-nf", "-fd"])
def test_presets_say_what_their_commands_say(permutation: str, ending: str) -> None:
    preset = find_preset(f"cifar10-affine-{permutation}{ending}")[1]
    config, flags = preset.config, dict(re.findall(r"--(\w+)=?(\S*)", preset.published))
    assert isinstance(config, InnClassifyConfig)
    assert (config.block, config.permutation) == (flags["coupling"], flags["permutation"])
    assert all("use_" not in flag or getattr(config, flag) for flag in flags)
    assert config.zero_init is ("zero_init" in flags)
    assert config.stability.inverse is ("no_inverse_svd" not in flags)
    penalties, size = config.regularizers, math.prod(config.images.image_shape)
    assert penalties.density == float(flags.get("nf_coeff", 0))
    for flag, name in (("fd_coeff", "fd_forward"), ("fd_inv_coeff", "fd_inverse")):
        assert getattr(penalties, name) == pytest.approx(float(flags.get(flag, 0)) * 0.1 * size)
    assert penalties.every == int(flags.get("regularize_every", 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"permutation": "shuffle", "use_actnorm": False},
        {"permutation": "reverse", "use_actnorm_in_blocks": True},
        {"block": "additive", "inj_pad": 1, "zs_dim": 10, "zero_init": False},
        {"affine_scale": "exp", "affine_eps": 0.1},
        {"affine_scale": "half-range", "learn_top": True},
        {"block": "residual", "condition": 9.0},
        {"block": "monotone", "condition": 9.0},
    ],
)
def test_every_kind_of_network_inverts_and_knows_its_log_det(changes: dict[str, Any]) -> None:
    regularizers = RegularizersConfig(density=1e-2)
    model, x = trained(small(regularizers=regularizers, **changes))
    with torch.no_grad():
        found = model.latents(x[:4], log_det=True)
        back = model.bijection.inverse(found.z)
        logits = model(x[:4])
    assert torch.allclose(back, x[:4], atol=1e-8)
    assert torch.allclose(logits, found.logits)
    exact = torch.linalg.slogdet(jacobian(model.bijection, x[:4], chunk=64)).logabsdet
    assert found.log_det is not None
    assert torch.allclose(found.log_det, exact, rtol=1e-6)


@pytest.mark.parametrize("block", ["residual", "monotone"])
def test_the_condition_number_stays_within_what_was_asked_for(block: str) -> None:
    config = small(block=block, condition=9.0, std=(0.2,), mean=(0.5,))
    model, x = trained(config, steps=5)
    bounds = model.bijection.bounds()
    assert bounds.transform * bounds.inverse <= 9.0 * 1.1  # of norms that are followed
    extremes = extreme_singular_values(jacobian(model.bijection, x[:4], chunk=64))
    assert bool((extremes[:, 0] / extremes[:, 1] <= bounds.transform * bounds.inverse).all())


def test_all_penalties_are_used_together() -> None:
    config = small(
        regularizers=RegularizersConfig(density=0.5, fd_forward=0.25, fd_inverse=2.0, jacobian=4.0)
    )
    model, data = build_model(config), batch(config)
    loss = InnLoss(model, config, Settings())
    loss.initialize(data)
    total, scalars = loss(data)
    weights = {"density": 0.5, "fd_forward": 0.25, "fd_inverse": 2.0, "jacobian": 4.0}
    added = sum(weight * scalars[f"{name}_penalty"] for name, weight in weights.items())
    assert data.y is not None
    nats = cross_entropy(model((data.x.float() + 0.5) / 17), data.y)
    assert torch.allclose(total, nats + added, rtol=1e-5)
    assert all(float(scalars[f"{name}_penalty"]) != 0 for name in weights)


def test_only_every_so_many_steps_are_regularized() -> None:
    penalties = Regularizers(RegularizersConfig(density=1.0, every=3))
    assert [penalties.due(step) for step in range(1, 7)] == 2 * [False, False, True]
    assert not Regularizers(RegularizersConfig()).due(1)


def test_a_learned_top_is_learned_by_the_density() -> None:
    config = small(learn_top=True, regularizers=RegularizersConfig(density=1.0))
    model, data = build_model(config), batch(config)
    loss = InnLoss(model, config, Settings())
    loss.initialize(data)
    torch.autograd.backward(loss(data)[0])
    learned = list(model.base.parameters())
    assert learned
    assert all(p.grad is not None and bool(p.grad.any()) for p in learned)


def test_what_is_not_finite_is_counted_and_in_no_mean() -> None:
    errors = torch.tensor([1.0, math.nan, 3.0, math.inf, math.nan])
    assert round_trip_figures("error", errors) == {
        **{"error": 2.0, "error_max": 3.0, "error_nan": 2.0, "error_inf": 1.0}
    }
    assert round_trip_figures("error", errors[1:2]) == {"error_nan": 1.0, "error_inf": 0.0}
    broken = torch.eye(3).expand(2, 3, 3).clone()
    broken[0, 1, 1] = math.nan
    broken[1, 0, 0] = 4.0
    found = spectral_figures("", extreme_singular_values(broken))
    assert found == {
        "condition": 4.0,
        "largest_singular_value": 4.0,
        "smallest_singular_value": 1.0,
        "jacobians_not_finite": 1.0,
    }


@pytest.mark.usefixtures("few_digits")
def test_a_run_logs_its_stability_and_is_resumed(cli: Cli, tmp_path: Path) -> None:
    options = (
        *QUICK,
        *("--set", "density=1e-3", "--set", "fd_inverse=1e-2", "--set", "regularizers.every=2"),
    )
    whole = tmp_path / "whole"
    result = cli("inn-classify", *options, "--iterations", 5, "--out", whole)
    assert result.exit_code == 0, result.output
    measured = rows(whole, "stability")
    assert [row["step"] for row in measured] == [2, 4, 5]
    assert all(row["reconstruction"] < 1e-3 < row["smallest_singular_value"] for row in measured)
    assert all(row["condition"] < 1e3 for row in measured)
    regularized = [row["step"] for row in rows(whole, "train") if "density_penalty" in row]
    assert regularized == [2, 4]
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["condition"] == measured[-1]["condition"]
    assert (whole / "figures" / "stability.png").exists()

    part = tmp_path / "part"
    assert cli("inn-classify", *options, "--iterations", 3, "--out", part).exit_code == 0
    resumed = cli("inn-classify", "--resume", "--iterations", 5, "--out", part)
    assert resumed.exit_code == 0, resumed.output
    states = [
        load_checkpoint(RunFolder.open(f).checkpoints.newest())["loss"] for f in (whole, part)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_figure_is_drawn_where_nothing_inverts(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    row = {"step": 1, "split": "stability", "reconstruction_nan": 4.0, "reconstruction_inf": 0.0}
    metrics.write_text(json.dumps(row) + "\n")
    draw_course([metrics], tmp_path / "stability.png")
    assert (tmp_path / "stability.png").exists()
    metrics.write_text("")
    draw_course([metrics], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stability.every": 75}, "multiple of evaluate_every=50"),
        ({"learn_top": True}, "learn_top: expected use_prior=true and a positive"),
        ({"condition": 3.0}, "condition: has no effect with block=affine"),
        ({"block": "residual", "condition": 0.5}, "condition: expected above 1"),
        ({"block": "residual", "contraction.coeff": 0.5}, "it follows from condition"),
        ({"affine_scale": "half-range", "affine_eps": 0.1}, "affine_eps: expected 0 of"),
        ({"regularizers.density": -1}, "density: expected 0 or a positive number"),
        ({"fd_step": 0.5}, "fd_step: has no effect"),
    ],
)
def test_options_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(find_preset("digits-inn")[1].config, changes)


def test_images_must_be_halved_and_hold_so_many_values() -> None:
    with pytest.raises(ConfigError, match="levels: images of 8x8 cannot be halved 4 times"):
        build_model(small(levels=4))
    with pytest.raises(ConfigError, match="zs_dim: expected at most 64 values, got 65"):
        build_model(small(zs_dim=65))
    images, heads = ImagesConfig(data="npz", shape=(3, 8, 8)), HeadsConfig(classes=10)
    config = small(images=images, heads=heads, mean=(0.5, 0.5), std=(1.0, 1.0))
    with pytest.raises(ConfigError, match="mean: expected one number or one for each of 3"):
        build_model(config)


def test_what_rounding_hides_is_no_singular_value() -> None:
    singular = torch.diag_embed(torch.tensor([[1e3, 1.0, 1e-90], [1e3, 1.0, 1e-9]]).double())
    largest, smallest = extreme_singular_values(singular).unbind(1)
    assert largest.tolist() == [1e3, 1e3]
    assert smallest.tolist() == pytest.approx([1e3 * 2**-52, 1e-9])


@pytest.mark.parametrize(
    ("prefix", "config"),
    [
        ("", InnClassifyConfig),
        ("regularizers.", RegularizersConfig),
        ("stability.", StabilityConfig),
    ],
)
def test_the_page_of_options_names_every_field(prefix: str, config: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "options.md").read_text()
    own = [f.name for f in fields(config) if f.default is not MISSING]
    assert [name for name in own if f"`{prefix}{name}" not in page] == []
