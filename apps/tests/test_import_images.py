"""`evaluate.py` and `sample.py` take imported checkpoints of images."""

import json
import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow_apps.importing import imported_images, load_imported
from flow_apps.parts.image_sets import images_as_read

Cli = Callable[..., Any]
SHAPE = (3, 8, 8)
TESTED = 6


@pytest.fixture
def glow(imported_glow: Callable[[Path], Path], tmp_path: Path) -> Path:
    return imported_glow(tmp_path / "glow")


@pytest.fixture
def data(tmp_path: Path) -> Generator[tuple[object, ...], None, None]:
    """Options for a small set of npz files, which the commands cache by its name."""
    root = tmp_path / "data"
    root.mkdir()
    for name, seed, count in (("train", 0, 8), ("val", 1, TESTED)):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 192), dtype=np.uint8)
        np.savez(root / f"{name}.npz", data=pixels, labels=np.zeros(count, np.int64))
    images_as_read.cache_clear()
    yield ("--set", "data=npz", "--set", "held_out=2", "--data-root", root)
    images_as_read.cache_clear()


def test_bits_of_an_import(cli: Cli, glow: Path, data: tuple[object, ...]) -> None:
    result = cli("evaluate", glow, *data, "--set", "test_draws=2")
    assert result.exit_code == 0, result.output
    told = json.loads((glow / "evaluation" / "evaluation.json").read_text())
    assert (told["checkpoint"], told["images"]["shape"]) == ("imported", [3, 8, 8])
    nats = np.load(glow / "evaluation" / "log_likelihoods.npy")
    assert nats.shape == (TESTED,)
    assert told["test_bits_per_dim"] == pytest.approx(-nats.mean() / (192 * math.log(2)))
    pixels = np.random.default_rng(1).integers(0, 256, (TESTED, 192), dtype=np.uint8)
    x = (torch.from_numpy(pixels).view(-1, *SHAPE) + 0.5) / 256
    with torch.no_grad():
        density = load_imported(glow).log_prob(x) / (192 * math.log(2))
    # In the middle of the bins, and with the 8 bits of their width, which are published apart.
    assert told["test_bits_per_dim"] == pytest.approx(8 - float(density.mean()), abs=1e-2)


def test_samples_of_an_import(cli: Cli, glow: Path, data: tuple[object, ...]) -> None:
    for temperature in ("0.5", "1.0"):
        asked = ("--count", 5, "--temperature", temperature)
        assert cli("sample", glow, *asked).exit_code == 0
    narrow, wide = (
        np.load(glow / "samples" / f"samples_last_n5_T{t}_seed0.npy") for t in ("0.5", "1")
    )
    assert narrow.shape == (5, *SHAPE)
    model = imported_images(glow)
    with torch.no_grad():
        z = [model.flow.bijection.transform(torch.from_numpy(x)) for x in (narrow, wide)]
    torch.testing.assert_close(z[0], 0.5 * z[1], rtol=0, atol=1e-3)
    sheets = ("--reconstructions", "--real", "--interpolations", "--side-by-side")
    options = ("--count", 4, "--pairs", 2, "--steps", 3)
    result = cli("sample", glow, *sheets, *options, *data, "--save-each")
    assert result.exit_code == 0, result.output
    assert len(list((glow / "samples").glob("*.png"))) == 6


def test_what_does_not_fit_is_one_line(cli: Cli, glow: Path, data: tuple[object, ...]) -> None:
    named = cli("evaluate", glow)
    assert "expected --set data=NAME, of images of shape (3, 8, 8)" in named.output
    other = cli("evaluate", glow, "--set", "data=mnist")
    assert "mnist has (1, 28, 28) with 256; apps/ood.py resizes them" in other.output
    bits = cli("evaluate", glow, *data, "--set", "n_bits=5")
    assert "with 256 levels, npz has (3, 8, 8) with 32" in bits.output.replace("None", "(3, 8, 8)")
    many = cli("sample", glow, "--real", "--count", 50, *data)
    assert f"expected at most the {TESTED} test images" in many.output
    assert {named.exit_code, other.exit_code, bits.exit_code, many.exit_code} == {1}


@pytest.mark.usefixtures("few_digits")
def test_runs_have_images_of_their_own(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flow = ("--set", "num_blocks=1", "--set", "block_size=1", "--set", "coupling_width=4")
    short = ("--set", "data=digits", "--set", "test_draws=1", "--iterations", 1, "--batch-size", 8)
    made = cli("glow", "small-conv1x1-mnist", *flow, *short, "--out", run)
    assert made.exit_code == 0, made.output
    for command in ("evaluate", "sample"):
        result = cli(command, run, "--set", "data=mnist")
        assert result.exit_code == 1
        assert "set: expected none" in result.output
