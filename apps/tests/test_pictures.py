"""Samples, real images, reconstructions and interpolations, on sheets and one by one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flow_apps.experiments.image.build import build_model
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.figures import images as figures
from flow_apps.loading import load_run
from flow_apps.parts.image_sets import images_as_read, spread
from flow_apps.parts.images import PICTURES
from flow_apps.parts.latent import between, decoded, encoded, interpolated
from flow_apps.parts.sampling import draw_samples
from flow_apps.sheets import write_each
from flow_core import Bijection
from flow_core.dequantization import Dequantized
from flow_data import load_digits
from PIL import Image
from torch import Tensor
from typer.testing import Result

Cli = Callable[..., Result]

pytestmark = pytest.mark.usefixtures("few_digits")

BRIEF = ("--batch-size", 8, "--test-size", 8, "--iterations", 2, "--set", "test_draws=1")
CONTRACTIVE = ("digits-monotone", "--set", "scales=[1]", "--set", "growth=4", *BRIEF)
CONVOLUTIONS = (
    *("--set", "images.data=digits", "--set", "coupling_width=4"),
    *("--set", "block_size=1", "--set", "timing=false"),
)
RUNS: dict[str, tuple[object, ...]] = {
    "image": ("image", *CONTRACTIVE, "--set", "dense_blocks=0", "--set", "padding=1"),
    "hybrid": ("image", *CONTRACTIVE, "--set", "task=hybrid", "--set", "heads.channels=4"),
    "glow": ("glow", "small-inverse-conv-mnist", *CONVOLUTIONS, *BRIEF),
}
SHEETS = ("--samples", "--real", "--reconstructions", "--interpolations", "--side-by-side")
SIZES = ("--count", 5, "--pairs", 3, "--steps", 4)


def trained(cli: Cli, name: str, out: Path) -> Path:
    result = cli(*RUNS[name], "--out", out)
    assert result.exit_code == 0, result.output
    return out


def content(folder: Path, sheet: str) -> np.ndarray:
    (file,) = folder.glob(f"{sheet}*.npy")
    found: np.ndarray = np.load(file)
    return found


def density(run: Path) -> Dequantized:
    found = load_run(run).distribution()
    assert isinstance(found, Dequantized)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_all_sheets_of_a_run_of_images(cli: Cli, tmp_path: Path, name: str) -> None:
    run, out = trained(cli, name, tmp_path / "run"), tmp_path / "out"
    for figure in ("samples", "reconstructions", "interpolations"):
        assert (run / "figures" / f"{figure}_000002.png").stat().st_size > 1000
    result = cli("sample", run, *SHEETS, *SIZES, "--save-each", "--out", out)
    assert result.exit_code == 0, result.output
    assert "largest error of a reconstruction, in [0, 1]: " in result.stderr
    assert [Path(line).exists() for line in result.stdout.splitlines()] == [True] * 15
    samples, real = content(out, "samples"), content(out, "real")
    pairs, rows = content(out, "reconstructions"), content(out, "interpolations")
    assert samples.shape == (5, 1, 8, 8)
    assert np.array_equal(pairs[:, 0], real)
    np.testing.assert_allclose(pairs[:, 1], real, atol=1e-4)
    assert rows.shape == (3, 4, 1, 8, 8)
    np.testing.assert_allclose(rows[:2, -1], real[3:5], atol=1e-4)
    np.testing.assert_allclose(rows[:, 0], real[:3], atol=1e-4)
    panels = np.stack([real, pairs[:, 1], samples])
    assert np.array_equal(content(out, "side_by_side"), panels)
    for sheet, count in zip(
        ("samples", "reconstr", "interp", "side"), (5, 10, 12, 15), strict=True
    ):
        (folder,) = (path for path in out.glob(f"{sheet}*") if path.is_dir())
        assert len(list(folder.glob("*.png"))) == count


def test_interpolations_are_straight_in_latent_space_not_in_that_of_pixels(
    cli: Cli, tmp_path: Path
) -> None:
    run, out = trained(cli, "glow", tmp_path / "run"), tmp_path / "out"
    assert cli("sample", run, "--interpolations", *SIZES, "--out", out).exit_code == 0
    rows, model = torch.from_numpy(content(out, "interpolations")), density(run).double()
    integers = (rows[:, [0, -1]] * model.levels).floor().to(torch.uint8)
    with torch.no_grad():
        z, w = (model.flow.bijection.transform(model.centres(x)) for x in integers.unbind(1))
        expected = model.flow.bijection.inverse((2 * z + w) / 3)
    torch.testing.assert_close(rows[:, 1].double(), expected, rtol=1e-4, atol=1e-5)
    blended = (2 * rows[:, 0] + rows[:, -1]) / 3
    assert float((rows[:, 1] - blended).abs().max()) > 0.05


def test_ends_of_interpolations_are_not_inverted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(
        ImageConfig(scales=(1,), growth=4, dense_blocks=0, block="coupling", width=4)
    )
    assert isinstance(model, Dequantized)
    images = load_digits().take(slice(4))
    model.initialize(images)
    inverted = list[int]()
    inverse = Bijection.inverse

    def counted(self: Bijection, y: Tensor, *arguments: object, **options: object) -> Tensor:
        inverted.append(len(y))
        return inverse(self, y, *arguments, **options)  # type: ignore[arg-type] # handed on

    monkeypatch.setattr(Bijection, "inverse", counted)
    with torch.no_grad():
        z = encoded(model, images)
        found = decoded(model, z)
        rows = interpolated(model, z, found, 5)
        assert interpolated(model, z, found, 2).shape == (2, 2, 1, 8, 8)
    assert inverted == [4, 2 * 3, 0]
    assert torch.equal(rows[:, 0], found[:2])
    assert torch.equal(rows[:, -1], found[2:])


def test_lines_between_latents() -> None:
    z, w = torch.randn(2, 3, 6, 2, dtype=torch.float64).unbind(0)
    line = between(z, w, 5)
    for place, t in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        torch.testing.assert_close(line[:, place], (1 - t) * z + t * w)


def test_real_images_are_those_of_the_set_byte_for_byte(cli: Cli, tmp_path: Path) -> None:
    run = trained(cli, "glow", tmp_path / "run")
    chosen = list[list[bytes]]()
    for seed in (0, 0, 1):
        out = tmp_path / str(len(chosen))
        asked = ("--real", "--count", 16, "--save-each", "--seed", seed, "--out", out)
        result = cli("sample", run, *asked)
        assert result.exit_code == 0, result.output
        (folder,) = (path for path in out.iterdir() if path.is_dir())
        pictures = [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]
        assert all(picture.shape == (8, 8, 3) for picture in pictures)
        chosen.append([picture[..., 0].tobytes() for picture in pictures])
    test = load_digits().take(slice(32, 48))
    expected = [(x[0].double() * 255 / 16).round().to(torch.uint8).numpy() for x in test]
    assert set(chosen[0]) == {picture.tobytes() for picture in expected}
    assert chosen[0] == chosen[1] != chosen[2]


def test_what_is_not_finite_has_no_file(tmp_path: Path) -> None:
    images = torch.tensor([-0.3, 0.5, float("nan"), 1.7]).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
    write_each(images, 256, tmp_path / "each")
    found = {f.stem: np.asarray(Image.open(f)).max() for f in (tmp_path / "each").iterdir()}
    assert found == {"00000": 0, "00001": 128, "00003": 255}


def test_each_image_is_above_its_partner(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[tuple[Tensor, int]]()

    def draw(images: Tensor, columns: int, path: Path) -> None:
        drawn.append((images, columns))

    monkeypatch.setattr(figures, "_draw", draw)
    above = torch.rand(7, 1, 2, 2)
    figures.draw_above(above, above + 1, Path("nowhere.png"))
    ((sheet, columns),) = drawn
    rows = sheet.reshape(-1, columns, 1, 2, 2)
    assert rows.shape[:2] == (4, 4)
    assert torch.equal(torch.cat([rows[0], rows[2][:3]]), above)
    assert torch.equal(torch.cat([rows[1], rows[3][:3]]), above + 1)
    assert bool((rows[2:, 3] == 0.5).all())


def test_figures_show_images_from_all_of_a_set() -> None:
    digits = load_digits()
    few = spread(digits, PICTURES)
    assert len(few) == PICTURES
    assert torch.equal(few.images[-1], digits.images[len(digits) * (PICTURES - 1) // PICTURES])
    assert len(spread(few, 100)) == PICTURES


def test_samples_are_as_spread_as_their_temperature(cli: Cli, tmp_path: Path) -> None:
    flow = density(trained(cli, "glow", tmp_path / "run")).flow
    with torch.no_grad():
        for temperature in (1.0, 0.5):
            z = flow.bijection.transform(draw_samples(flow, 200, temperature))
            assert float(z.std()) == pytest.approx(temperature, rel=0.03)


def test_runs_without_images_refuse_sheets_of_them(cli: Cli, tmp_path: Path) -> None:
    toy = tmp_path / "toy"
    small = ("--set", "blocks=1", "--set", "growth=4", "--set", "compile=false", *BRIEF[:-2])
    result = cli("toy2d", "moons-idensenet", *small, "--out", toy)
    assert result.exit_code == 0, result.output
    for option in ("--real", "--reconstructions", "--interpolations", "--side-by-side"):
        refused = cli("sample", toy, "--samples", option)
        assert refused.exit_code == 1
        words = f"{option.strip('-').replace('-', '_')}: expected a run with images, "
        assert words in refused.stderr
        assert "run of toy2d" in refused.stderr
    assert "save_each: expected" in cli("sample", toy, "--save-each").stderr
    assert not (toy / "samples").exists()


def test_more_real_images_than_there_are(cli: Cli, tmp_path: Path) -> None:
    run = trained(cli, "glow", tmp_path / "run")
    for options in (("--real", "--count", 17), ("--interpolations", "--pairs", 9)):
        refused = cli("sample", run, *options)
        assert refused.exit_code == 1
        assert "at most the 16 test images of this run, 1" in refused.stderr
    for option, value in (("pairs", 0), ("steps", 1)):
        refused = cli("sample", run, "--interpolations", f"--{option}", value)
        assert refused.exit_code == 1
        assert f"{option}: expected an integer from" in refused.stderr


def test_real_images_are_found_where_they_are_now(cli: Cli, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    drawn = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 6)):
        pixels = drawn.integers(256, size=(count, 3 * 64), dtype=np.uint8)
        np.savez(data / f"{part}.npz", data=pixels, labels=np.ones(count, dtype=np.int64))
    glow = [word if word != "images.data=digits" else "images.data=npz" for word in RUNS["glow"]]
    held_out = ("--set", "held_out=4", "--data-root", data, "--out", tmp_path / "run")
    result = cli(*glow, *held_out)
    assert result.exit_code == 0, result.output
    shutil.move(data, tmp_path / "moved")
    images_as_read.cache_clear()
    asked = ("sample", tmp_path / "run", "--real", "--count", 6, "--save-each")
    refused = cli(*asked)
    assert refused.exit_code == 1
    assert "give their present folder as --data-root" in refused.stderr
    found = cli(*asked, "--data-root", tmp_path / "moved")
    assert found.exit_code == 0, found.output
    files = (tmp_path / "run" / "samples").glob("real*/*.png")
    written = {np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in files}
    assert written == {image.tobytes() for image in pixels}
