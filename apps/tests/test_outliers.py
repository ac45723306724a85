"""Models on images that they were not trained on: what is not finite, honest bits, one table."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from flow_apps.errors import CheckpointError, ConfigError
from flow_apps.figures.outliers import painted
from flow_apps.importing import imported_images, load_imported
from flow_apps.outliers import OutliersRequest, compare_on_sets
from flow_apps.outliers.measuring import dequantization_noise, measure
from flow_apps.outliers.sets import load_set, require_sets
from flow_apps.outliers.subjects import Subject, load_subject
from flow_apps.outliers.table import row_of, statistics
from flow_apps.training import Display
from flow_core import Flow, Settings, StandardNormal
from flow_core.bijection import Bijection
from flow_core.dequantization import Dequantized, UniformDequantizer
from flow_core.passes import Pass
from flow_data import DataError, ImageSet, noise_images
from torch import Tensor

Cli = Callable[..., Any]
ImportedGlow = Callable[[Path], Path]
SHAPE = (3, 8, 8)


def request(*sets: str, **options: Any) -> OutliersRequest:
    defaults: dict[str, Any] = {"images": 6, "jacobians": 0, "trips": 2, "pictures": 2}
    return OutliersRequest(sets=sets or ("uniform",), **{**defaults, **options})


def subject(folder: Path, **options: Any) -> Subject:
    return load_subject(folder, request(**options), Display())


class Breaking(Bijection):
    """The identity, whose inverse loses images by their first value: NaN, and infinite."""

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return x, how.log_det(x, lambda: x.new_zeros(len(x)))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        first = y.flatten(1)[:, 0].view(-1, 1, 1, 1)
        broken = torch.where(first > 0.75, math.nan, torch.where(first > 0.5, math.inf, 0.0))
        return y + broken + 1e-3, how.log_det(y, lambda: y.new_zeros(len(y)))


def breaking() -> tuple[Subject, ImageSet]:
    flow = Flow(StandardNormal((1, 2, 2)), Breaking())
    model = Dequantized(flow, UniformDequantizer(), 256)
    model.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
    pixels = torch.zeros(8, 1, 2, 2, dtype=torch.uint8)
    pixels[0], pixels[1:3] = 250, 150
    images = ImageSet(pixels, torch.full((8,), -1), 256, "some")
    return Subject("breaking", model, Settings(), None, ()), images


def test_nan_and_inf_are_counted_apart_and_in_no_mean() -> None:
    """The published test is isinf alone: a NaN is in no share, and makes every mean a NaN."""
    model, images = breaking()
    row = row_of("breaking", "some", measure(model, images, request()), 2)
    assert (row.nan, row.inf, row.unsolved, row.lost_n) == (1 / 8, 2 / 8, 0, 3 / 8)
    assert row.l2_mean == pytest.approx(2e-3, rel=1e-3)
    assert row.l2_max == pytest.approx(2e-3, rel=1e-3)
    assert row.pixels_1 == pytest.approx(0.255, rel=1e-3)
    assert row.pixels_n == pytest.approx(0.51, rel=1e-3)
    assert row.bits_nan == row.bits_inf == row.latents_not_finite == 0
    found = statistics(torch.tensor([1.0, math.nan, 3.0, math.inf, -math.inf]))
    assert (found.mean, found.least, found.largest, found.finite) == (2, 1, 3, 2)
    nothing = statistics(torch.tensor([math.nan]))
    assert math.isnan(nothing.mean)
    assert nothing.finite == 0


def test_bits_have_the_unit_of_the_integers(imported_glow: ImportedGlow, tmp_path: Path) -> None:
    """The published evaluation leaves D·log 256 out, which is 8 bits a value."""
    folder = imported_glow(tmp_path / "glow")
    model = subject(folder)
    images = noise_images("uniform", 6, SHAPE)
    found = measure(model, images, request()).images.bits
    noise = dequantization_noise(model, images, request())
    with torch.no_grad():
        nats = load_imported(folder).log_prob((images.images + noise) / 256)
    density = -nats.double() / (192 * math.log(2))
    torch.testing.assert_close(found, density + 8, rtol=0, atol=1e-4)


def test_no_image_depends_on_its_batch_nor_on_the_default_generator(
    imported_glow: ImportedGlow, tmp_path: Path
) -> None:
    model, images = subject(imported_glow(tmp_path / "glow")), noise_images("gaussian", 7, SHAPE)
    results = []
    for size, seed in ((7, 0), (1, 5), (3, 9)):
        torch.manual_seed(seed)
        results.append(measure(model, images, request(batch_size=size)).images)
    for other in results[1:]:
        torch.testing.assert_close(other.bits, results[0].bits, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.l2, results[0].l2, rtol=0, atol=1e-5)
    other = measure(model, images, request(seed=1)).images
    assert not torch.allclose(other.bits, results[0].bits, atol=1e-5)


def test_imports_as_distributions_of_integers(imported_glow: ImportedGlow, tmp_path: Path) -> None:
    model = imported_images(imported_glow(tmp_path / "glow"))
    assert (model.levels, tuple(model.event_shape), model.training) == (256, SHAPE, False)
    with pytest.raises(CheckpointError):
        imported_images(tmp_path)


@pytest.mark.usefixtures("few_digits")
def test_runs_and_imports_in_one_table(
    imported_glow: ImportedGlow, cli: Cli, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    small = ("--set", "scales=[1]", "--set", "dense_blocks=0", "--set", "growth=4")
    short = ("--set", "depth=1", "--set", "test_draws=1", "--set", "block=residual")
    power = ("--set", "test_power_iterations=5", "--batch-size", 8, "--iterations", 1)
    assert cli("image", *small, *short, *power, "--out", run).exit_code == 0
    glow, out = imported_glow(tmp_path / "glow"), tmp_path / "table"
    measured = ("--images", 4, "--jacobians", 1, "--trips", 2, "--pictures", 2)
    result = cli("ood", run, glow, "--sets", "digits, uniform", "--out", out, *measured)
    assert result.exit_code == 0, result.output
    rows = json.loads((out / "table.json").read_text())["rows"]
    places = [(row["model"], row["set"]) for row in rows]
    assert places == [(m, s) for m in ("run", "glow") for s in ("digits", "uniform")]
    for row in rows:
        assert row["images"] == 4
        assert row["l2_max"] < 1e-3
        assert row["condition"] >= 1
        assert row["log_det_error"] < 1e-2
        assert math.isfinite(row["bits"])
    table = list(csv.DictReader((out / "table.csv").open()))
    assert [float(r["bits"]) for r in table] == [r["bits"] for r in rows]
    text = (out / "table.txt").read_text()
    assert text in result.output
    assert "run: last weights, of step 1, float32; solves until rms residual" in text
    assert "published: |change| < sqrt(1e-5 (1 + |y|)), about 3e-3" in text
    assert (out / "sheet.png").stat().st_size > 1000
    again = cli("ood", run, glow, "--sets", "digits", "--out", out)
    assert "holds a table already" in again.output
    loose = compare_on_sets([run], request("own", rtol=0.1, images=4))
    assert "rtol 0.1" in loose.text
    assert loose.rows[0].l2_mean > 10 * rows[0]["l2_mean"]
    assert loose.folder == run / "ood"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sets", "gausian"), "there is no set 'gausian'; did you mean gaussian"),
        (("--sets", "noise/train"), "there is no set 'noise/train'"),
        (("--sets", "zip:x"), "there is no set 'zip:x'"),
        (("--sets", " , "), "sets: expected at least one"),
        (("--sets", "uniform,uniform"), "sets: expected each once"),
        (("--sets", "uniform", "--images", 0), "images: expected an integer from 1 on"),
        (("--sets", "own"), "an imported checkpoint has no own images"),
        (("--sets", "svhn", "--data-root", "nowhere"), "nowhere: expected test_32x32.mat"),
        (("--sets", "dtd", "--data-root", "nowhere"), "fetch https://www.robots"),
    ],
)
def test_bad_input_is_one_line(
    imported_glow: ImportedGlow, cli: Cli, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    result = cli("ood", imported_glow(tmp_path / "glow"), *options)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "glow" / "ood").exists()


def test_files_are_fitted_to_the_model(tmp_path: Path) -> None:
    pixels = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    np.savez(tmp_path / "a.npz", data=pixels.flatten(1).numpy(), labels=np.zeros(5, np.int64))
    torch.save(pixels.float(), tmp_path / "places.t7")
    found = [
        load_set(name, (1, 8, 8), 32, count=3, seed=0, root="", own=None)
        for name in (f"npz:{tmp_path / 'a.npz'}", f"tensor:{tmp_path / 'places.t7'}")
    ]
    assert torch.equal(found[0].images, found[1].images)
    assert [(len(s), s.shape, s.levels) for s in found] == 2 * [(3, (1, 8, 8), 32)]
    require_sets(("mnist/train", "tensor:a/b", "own"))
    with pytest.raises(DataError, match="No such file"):
        load_set("tensor:none.t7", SHAPE, 256, count=1, seed=0, root="", own=None)


def test_one_model_needs_no_folder_and_several_do(
    imported_glow: ImportedGlow, tmp_path: Path
) -> None:
    folders = [imported_glow(tmp_path / name / "glow") for name in ("a", "b")]
    with pytest.raises(ConfigError, match="give --out"):
        compare_on_sets(folders, request())
    with pytest.raises(ConfigError, match="folders of different names"):
        compare_on_sets(folders, request(out=tmp_path / "out"))


def test_what_no_picture_can_show_has_a_colour() -> None:
    images = torch.full((1, 1, 1, 6), 0.5)
    images[0, 0, 0, 1:] = torch.tensor([2e6, math.inf, -2e6, -math.inf, math.nan])
    colours = cast("list[list[float]]", painted(images)[0, :, 0].T.tolist())
    red, cyan, magenta = [1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]
    assert colours == [[0.5] * 3, red, red, cyan, cyan, magenta]
