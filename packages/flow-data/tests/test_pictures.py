"""Folders of pictures and CelebA, with pictures that the tests draw, whole and broken."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from flow_data import DataError, load_celeba, load_image_folder
from flow_data.images import celeba, pictures
from flow_data.images.framing import Framing
from flow_data.integrity import file_checksum
from PIL import Image

Bytes = npt.NDArray[np.uint8]


def pixels(height: int, width: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> Bytes:
    """A gradient, which JPEG keeps almost as it is."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 200 / height, columns * 200 / width, (rows + columns) * 0.2]
    return np.stack(channels, -1).astype(np.uint8)


def draw(path: Path, values: Bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, quality=95, subsampling=0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; the second has its pictures in the opposite order of their making."""
    folder = tmp_path / "animals"
    draw(folder / "cat" / "a.png", pixels(6, 5, 0))
    draw(folder / "dog" / "2.PNG", pixels(6, 5, 2))
    draw(folder / "dog" / "1.png", pixels(6, 5, 1))
    (folder / "dog" / "notes.txt").write_text("no picture")
    (folder / "licence.txt").write_text("no class")
    return folder


def test_pictures_in_the_order_of_their_names(root: Path) -> None:
    images = load_image_folder(root)
    assert (len(images), images.shape, images.name) == (3, (3, 6, 5), "animals")
    assert images.labels.tolist() == [0, 1, 1]
    whole = np.stack([pixels(6, 5, seed) for seed in range(3)])
    assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), whole)
    assert images.levels == 256


def test_many_pictures_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_AT_A_TIME", 3)
    for k in range(20):
        draw(tmp_path / "all" / f"{k:02d}.png", np.full((2, 2, 3), k, dtype=np.uint8))
    assert load_image_folder(tmp_path).images[:, 0, 0, 0].tolist() == list(range(20))


def test_jpeg_and_pictures_in_deeper_folders(tmp_path: Path) -> None:
    draw(tmp_path / "one" / "deep" / "a.jpeg", smooth(32, 32))
    draw(tmp_path / "one" / "b.jpg", smooth(32, 32))
    images = load_image_folder(str(tmp_path)).images.permute(0, 2, 3, 1).short()
    assert int((images - torch.from_numpy(smooth(32, 32)).short()).abs().max()) <= 4


def test_size_takes_the_central_square(tmp_path: Path) -> None:
    values = np.zeros((8, 20, 3), dtype=np.uint8)
    values[:, 6:14] = pixels(8, 8)
    draw(tmp_path / "wide" / "a.png", values)
    draw(tmp_path / "wide" / "b.png", values.transpose(1, 0, 2))
    images = load_image_folder(tmp_path, size=8).images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images[0], pixels(8, 8))
    assert np.array_equal(images[1], pixels(8, 8).transpose(1, 0, 2))


def test_shrinking_averages(tmp_path: Path) -> None:
    """Every second pixel white: taking every second one would give 0 or 255."""
    values = np.zeros((32, 32, 3), dtype=np.uint8)
    values[:, ::2] = 255
    draw(tmp_path / "stripes" / "a.png", values)
    images = load_image_folder(tmp_path, size=8).images
    assert 100 < int(images.min()) <= int(images.max()) < 155


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_modes_become_colour(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "one" / "a.png"
    path.parent.mkdir()
    values = (pixels(4, 4) > 127).astype(np.uint8) * 255
    grey = np.repeat(values[..., :1], 3, axis=-1)
    Image.fromarray(grey).convert(mode, dither=Image.Dither.NONE).save(path)
    images = load_image_folder(tmp_path).images[0].permute(1, 2, 0)
    assert np.array_equal(images.numpy(), grey)


Change = Callable[[Path], object]


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN: dict[str, tuple[Change, str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-60]), "truncated|broken"),
    "spoilt": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAX")),
        r"1\.png \(.+\)",
    ),
    "text": (lambda path: path.write_text("<html>"), r"1\.png \(neither\)"),
    "empty": (lambda path: path.write_bytes(b""), r"1\.png \(neither\)"),
    "other size": (lambda path: draw(path, pixels(7, 5)), r"1\.png \(7x5\)"),
    "folder": (make_folder, r"1\.png \(Is a directory\)"),
    "other format": (
        lambda path: Image.fromarray(pixels(6, 5)).save(path, format="BMP"),
        r"1\.png \(neither\)",
    ),
    "16 bits": (
        lambda path: Image.fromarray(np.zeros((6, 5), np.uint16)).save(path),
        r"1\.png \(one of mode I;16\)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_picture_is_named(root: Path, kind: str) -> None:
    change, message = BROKEN[kind]
    change(root / "dog" / "1.png")
    with pytest.raises(DataError, match=message) as caught:
        load_image_folder(root)
    assert caught.value.subject == str(root)
    assert caught.value.found.startswith("1 that are not: dog/1.png (")


def test_a_picture_of_gigabytes_is_not_unpacked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="decompression bomb"):
        load_image_folder(root)


def test_folders_without_pictures(root: Path, tmp_path: Path) -> None:
    (root / "bird").mkdir()
    with pytest.raises(DataError, match=r"bird: expected pictures \(\.png, .*\), got none"):
        load_image_folder(root)
    with pytest.raises(DataError, match="cat: expected a folder for each class, got none"):
        load_image_folder(root / "cat")
    with pytest.raises(DataError, match=r"got No such file or directory; .*path is right"):
        load_image_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="expected a size >= 1, got 0"):
        load_image_folder(root, 0)


def test_without_pillow_it_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "flow_data.images.decode", raising=False)
    with pytest.raises(DataError, match=r"pip install .flow-data\[images\]."):
        load_image_folder(root)


def test_a_framing_has_a_shape() -> None:
    assert Framing(expected=(3, 4)).shape == (3, 4)
    assert Framing(expected=(3, 4), square=3, size=2).shape == (2, 2)
    with pytest.raises(ValueError, match="got neither"):
        print(Framing(square=3).shape)


NAMES = [f"{k:06d}.jpg" for k in range(1, 9)]


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight faces, of which the tests' partition counts as the published one."""
    folder = tmp_path / "celeba"
    for name in NAMES:
        draw(folder / "img_align_celeba" / name, smooth(218, 178))
    partition = folder / "list_eval_partition.txt"
    parts = [0, 1, 0, 2, 0, 0, 1, 0]
    lines = [f"{name} {part}\n" for name, part in zip(NAMES, parts, strict=True)]
    partition.write_text("".join(lines))
    monkeypatch.setattr(celeba, "_PARTITION_CONTENT", file_checksum(partition, "md5"))
    return tmp_path


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_central_square_of_a_face(faces: Path, size: Literal[32, 64, 128]) -> None:
    """Row r of the result covers the rows from 35 + 148 r / size of the picture."""
    images = load_celeba(faces, size)
    assert (len(images), images.shape, images.name) == (5, (3, size, size), f"CelebA{size}")
    centres = (torch.arange(size) + 0.5) * 148 / size - 0.5
    inner = slice(2, -2)
    rows, columns = (35 + centres) * 200 / 218, (15 + centres) * 200 / 178
    assert float((images.images[0, 0, inner, size // 2] - rows[inner]).abs().max()) < 4
    assert float((images.images[0, 1, size // 2, inner] - columns[inner]).abs().max()) < 4
    assert images.labels.tolist() == 5 * [-1]


def test_the_parts_of_celeba(faces: Path) -> None:
    draw(faces / "celeba" / "img_align_celeba" / NAMES[3], np.zeros((218, 178, 3), np.uint8))
    assert len(load_celeba(faces, 32, "valid")) == 2
    test = load_celeba(str(faces), 32, "test")
    assert (len(test), int(test.images.max())) == (1, 0)
    assert torch.equal(load_celeba(faces, 32).images, load_celeba(faces, 32).images)


def test_missing_and_broken_faces_are_counted_and_named(faces: Path) -> None:
    folder = faces / "celeba" / "img_align_celeba"
    for name in NAMES[:3]:
        (folder / name).unlink()
    (folder / NAMES[4]).write_bytes((folder / NAMES[4]).read_bytes()[:2000])
    draw(folder / NAMES[5], smooth(178, 218))
    (folder / NAMES[7]).write_text("text")
    with pytest.raises(DataError) as caught:
        load_celeba(faces)
    found = caught.value.found
    assert caught.value.expected == "5 readable pictures of one kind"
    assert found.startswith("5 that are not: 000001.jpg (No such file or directory), 000003.jpg (")
    assert "000005.jpg (image file is truncated" in found
    assert "000006.jpg (178x218), 000008.jpg (neither)" in found


def test_only_the_first_few_are_named(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_NAMED", 2)
    for name in NAMES:
        (faces / "celeba" / "img_align_celeba" / name).unlink()
    with pytest.raises(DataError, match=r"got 5 that .*000001.*000003.*directory\) and 3 more; "):
        load_celeba(faces)


def test_celeba_that_is_not_there(faces: Path, tmp_path: Path) -> None:
    (faces / "celeba" / "img_align_celeba").rename(faces / "elsewhere")
    with pytest.raises(DataError, match=r"folder img_align_celeba, got no such folder; unpack"):
        load_celeba(faces)
    with pytest.raises(DataError, match=r"list_eval_partition\.txt: .* No such file"):
        load_celeba(tmp_path / "none")


def test_another_partition_is_refused_unless_asked_for(faces: Path) -> None:
    path = faces / "celeba" / "list_eval_partition.txt"
    path.write_text(f"{NAMES[0]} 0\n")
    with pytest.raises(DataError, match=r'content with md5 .* verify="format"'):
        load_celeba(faces)
    assert len(load_celeba(faces, verify="format")) == 1


@pytest.mark.parametrize(
    "line", ["a.jpg", "a.jpg 3", "../a.jpg 0", "/etc/a.jpg 0", "a.jpg 0 0", ""]
)
def test_spoilt_partitions(faces: Path, line: str) -> None:
    path = faces / "celeba" / "list_eval_partition.txt"
    path.write_text(f"{NAMES[0]} 0\n{line}\n")
    with pytest.raises(DataError, match="in each line the name of a picture"):
        load_celeba(faces, verify="format")


def test_an_empty_part(faces: Path) -> None:
    (faces / "celeba" / "list_eval_partition.txt").write_text(f"{NAMES[0]} 0\n")
    with pytest.raises(DataError, match="expected pictures of part 2, got none"):
        load_celeba(faces, split="test", verify="format")


def test_the_published_partition_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "celeba").mkdir()
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("a.jpg 0")
    with pytest.raises(DataError, match="content with md5 d32c9cbf5e040fd4025c592c306e6668"):
        load_celeba(tmp_path)
