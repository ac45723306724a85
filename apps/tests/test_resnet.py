"""The classifiers of Implicit Normalizing Flows: presets, runs, statistics, files of CIFAR-100."""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import flow_apps
import numpy as np
import numpy.typing as npt
import pytest
import torch
from flow_apps.config import apply_overrides
from flow_apps.errors import ConfigError
from flow_apps.experiments import find_preset
from flow_apps.experiments.classify.build import build_parts, build_upkeep
from flow_apps.experiments.classify.config import ClassifyConfig
from flow_apps.experiments.classify.model import build_model
from flow_apps.parts.image_sets import images_as_read
from flow_apps.training import RunFolder, load_checkpoint, moving_average
from flow_core.models import ContractiveResNet
from flow_data import WHOLE
from flow_data.images import cifar
from flow_data.images.published_cifar import CIFAR100
from torch import Tensor, nn

Cli = Callable[..., Any]

# The published code counts a number a block that its estimator is made of.
COUNTS = {
    "cifar10-resnet-impflow": 6_521_422 - 4,
    "cifar10-resnet-resflow": 6_521_422 - 4,
    "cifar10-resnet-vanilla": 6_573_476 - 512 * 90 - 90,
    "cifar100-resnet-impflow": 6_567_592 - 4,
    "cifar100-resnet-resflow": 6_567_592 - 4,
    "cifar100-resnet-vanilla": 6_573_476,
}
SMALL = (
    *("--set", "network=resnet", "--set", "widths=[4,6]", "--batch-size", 16),
    *("--set", "coeff=0.9", "--set", "test_power_iterations=20"),
)


def preset(name: str) -> ClassifyConfig:
    config = find_preset(name)[1].config
    assert isinstance(config, ClassifyConfig)
    return config


def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


@pytest.mark.parametrize(("name", "parameters"), COUNTS.items())
def test_published_resnets_have_the_published_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(preset(name))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", COUNTS)
def test_the_recipe_is_the_published_one(name: str) -> None:
    config, epoch = preset(name), 351
    training, schedule = config.training, config.training.optimizer.schedule
    assert config.images.data == name.partition("-")[0]
    assert (training.iterations, training.batch_size) == (150 * epoch, 128)
    assert (training.ema_decay, training.gradient_clip) == (0.999, None)
    assert training.optimizer.weight_decay == schedule.warmup == 0
    rates = [schedule.factor_at(e * epoch, training.iterations) for e in (74, 76, 91, 101)]
    assert rates == pytest.approx([1, 0.1, 0.01, 0.001])
    assert config.contraction.coeff == 0.99
    assert apply_overrides(config, {"coeff": 0.6}).contraction.coeff == 0.6


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("block", ["implicit", "residual", "plain"])
def test_a_run_is_tested_and_resumed(block: str, cli: Cli, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = (*SMALL, "--set", f"block={block}", "--set", "evaluate_every=2")
    result = cli("classify", *options, "--iterations", 4, "--out", whole)
    assert result.exit_code == 0, result.output
    assert cli("classify", *options, "--iterations", 2, "--out", parts).exit_code == 0
    assert cli("classify", "--resume", "--iterations", 4, "--out", parts).exit_code == 0
    one, other = (
        load_checkpoint(RunFolder.open(run).checkpoints.newest())["loss"] for run in (whole, parts)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    found = summary(whole)
    assert found["test_accuracy"] == summary(parts)["test_accuracy"]
    bounds = found.get("lipschitz_bound", {})
    assert len(bounds) == (0 if block == "plain" else 4)
    assert all(0 < bound < 1 for bound in bounds.values())
    assert isinstance(flow_apps.load_model(whole), ContractiveResNet)
    tested = cli("evaluate", whole)
    assert f"test_accuracy: {found['test_accuracy']}" in tested.output, tested.output


@pytest.mark.usefixtures("few_digits")
def test_statistics_belong_to_the_averaged_weights() -> None:
    """They are an average over the same steps, and a test leaves them as they are."""
    small = {"network": "resnet", "widths": [4, 6], "batch_size": 8, "ema_decay": 0.9}
    config = apply_overrides(ClassifyConfig(), small)
    model = build_model(config)
    parts = build_parts(config, model, frozenset())
    stem = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[Tensor] = []
    stem.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().mean((0, 2, 3))))
    parts.loss.initialize(parts.data.batch(1, WHOLE))
    average = moving_average.moving_average(model, 0.9)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    upkeep = build_upkeep(config, model)
    assert average is not None
    expected = seen[0]
    for step in range(1, 6):
        optimizer.zero_grad()
        torch.autograd.backward(parts.loss(parts.data.batch(step, WHOLE))[0])
        optimizer.step()
        upkeep.after_optimizer_step(step)
        average.update_parameters(model)
        expected = 0.9 * expected + 0.1 * seen[-1]
    torch.testing.assert_close(stem.running_mean, expected)
    before = [value.clone() for value in model.state_dict().values()]
    with moving_average.tested_weights(model, upkeep, average), torch.no_grad():
        assert not stem.training
        model(torch.rand(8, 1, 8, 8))
        torch.testing.assert_close(stem.running_mean, expected)
    after = model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def pickled(labels: list[int], pixels: npt.NDArray[np.uint8]) -> bytes:
    """Labels and pixels in the opcodes of Python 2, which the published files are made of."""

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85"
    empty += text(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    kind += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = b"(" + b"".join(number(n) for n in pixels.shape) + b"t"
    array = empty + b"(" + number(1) + shape + kind + b"\x89" + text(pixels.tobytes()) + b"tb"
    classes = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"fine_labels") + classes + text(b"data") + array + b"u."


def cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small set of its format, whose digests count as the published ones."""
    draw, digests = np.random.default_rng(0), dict[str, str]()
    folder = root / CIFAR100.folder
    folder.mkdir()
    for name in ("train", "test", "meta"):
        pixels = draw.integers(0, 256, (24, 3072), dtype=np.uint8)
        content = pickled(list(range(76, 100)), pixels)
        (folder / name).write_bytes(content)
        digests[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    known = CIFAR100
    train, test = (
        tuple(replace(file, content=digests[file.name]) for file in files)
        for files in (known.train, known.test)
    )
    meta = replace(known.meta, content=digests["meta"])
    monkeypatch.setattr(cifar, "CIFAR100", replace(known, train=train, test=test, meta=meta))
    images_as_read.cache_clear()


def test_a_preset_of_cifar100_trains_on_its_files(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar100(tmp_path, monkeypatch)
    options = ("--data-root", tmp_path, "--set", "held_out=8", "--set", "widths=[4,4]")
    more = ("--batch-size", 4, "--iterations", 2, "--set", "test_power_iterations=5")
    run = tmp_path / "run"
    result = cli("classify", "cifar100-resnet-impflow", *options, *more, "--out", run)
    assert result.exit_code == 0, result.output
    model = flow_apps.load_model(run)
    assert isinstance(model, ContractiveResNet)
    assert model.logits.out_features == 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block": "plain"}, "block: expected monotone or residual or implicit of network=flow"),
        ({"network": "resnet", "block": "monotone"}, "block: expected implicit or residual or"),
        ({"network": "resnet", "widths": []}, "widths: expected integers from 1 to 8192"),
        ({"network": "resnet", "growth": 4}, "growth: has no effect with network=resnet"),
        ({"widths": [4, 6]}, "widths: has no effect with network=flow"),
    ],
)
def test_networks_that_cannot_be_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        apply_overrides(ClassifyConfig(), changes)


def test_the_block_goes_with_the_network() -> None:
    assert apply_overrides(ClassifyConfig(), {"network": "resnet"}).block == "implicit"
