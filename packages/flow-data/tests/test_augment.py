"""Augmentation against padding and cropping, its law, and what it depends on."""

from collections.abc import Callable

import pytest
import torch
from flow_data import augment_cifar, augment_crops, augment_mnist, random_flip, random_shift
from flow_data.augment import Edge
from torch import Tensor
from torch.nn.functional import pad

Augment = Callable[[Tensor, torch.Generator], Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int = 200, channels: int = 3, side: int = 8) -> Tensor:
    shape = (count, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator(9), dtype=torch.uint8)


def crops(image: Tensor, pixels: int, mode: str) -> list[Tensor]:
    """Every crop of the original size from the padded image, row by row."""
    side = 2 * pixels + 1
    padded = pad(image[None].float(), [pixels] * 4, mode=mode)[0].to(torch.uint8)
    height, width = image.shape[-2:]
    return [padded[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]


def which(shifted: Tensor, image: Tensor, pixels: int, mode: str) -> int:
    (found,) = [k for k, c in enumerate(crops(image, pixels, mode)) if torch.equal(c, shifted)]
    return found


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("pixels", [1, 3])
def test_a_shift_is_a_crop_of_the_padded_image(mode: Edge, pixels: int) -> None:
    images = random_images()
    shifted = random_shift(images, pixels, generator(), mode)
    found = [which(s, i, pixels, mode) for s, i in zip(shifted, images, strict=True)]
    assert len(set(found)) > 0.9 * (2 * pixels + 1) ** 2


def test_all_shifts_are_equally_likely() -> None:
    images = random_images(1)
    shifted = random_shift(images.expand(9000, -1, -1, -1), 1, generator())
    counts = torch.tensor([which(s, images[0], 1, "reflect") for s in shifted]).bincount()
    # 1000 of each, standard deviation 30.
    assert len(counts) == 9
    assert int((counts - 1000).abs().max()) < 130


def test_half_of_the_images_are_flipped() -> None:
    images = random_images(4000)
    flipped = random_flip(images, generator())
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    # Standard deviation 32.
    assert abs(int(same.sum()) - 2000) < 150


def test_a_shift_of_nothing() -> None:
    images = random_images()
    assert torch.equal(random_shift(images, 0, generator()), images)


def test_images_need_not_be_square() -> None:
    images = random_images()[..., :5]
    shifted = random_shift(images, 2, generator())
    found = {which(s, i, 2, "reflect") for s, i in zip(shifted, images, strict=True)}
    assert len(found) > 20


@pytest.mark.parametrize("augment", [augment_mnist, augment_cifar, augment_crops, random_flip])
def test_the_generator_decides(augment: Augment) -> None:
    images = random_images()
    before = images.clone()
    result = augment(images, generator(1))
    assert result.dtype == torch.uint8
    assert result.shape == images.shape
    assert torch.equal(result, augment(images, generator(1)))
    assert not torch.equal(result, augment(images, generator(2)))
    assert torch.equal(images, before)


def test_global_randomness_is_not_touched() -> None:
    state = torch.get_rng_state()
    augment_cifar(random_images(), generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_presets() -> None:
    digits, colours = random_images(20, 1, 28), random_images(20, 3, 32)
    for shifted, image in zip(augment_mnist(digits, generator()), digits, strict=True):
        which(shifted, image, 1, "reflect")
    for shifted, image in zip(augment_cifar(colours, generator()), colours, strict=True):
        candidates = crops(image, 1, "replicate") + crops(image.flip(-1), 1, "replicate")
        assert sum(torch.equal(shifted, candidate) for candidate in candidates) == 1
    for shifted, image in zip(augment_crops(colours, generator()), colours, strict=True):
        candidates = crops(image, 4, "reflect") + crops(image.flip(-1), 4, "reflect")
        assert sum(torch.equal(shifted, candidate) for candidate in candidates) == 1


def test_impossible_shifts_are_refused() -> None:
    images = random_images()
    with pytest.raises(ValueError, match="less than the 8x8 pixels of the images, got 8"):
        random_shift(images, 8, generator())
    with pytest.raises(ValueError, match=r"expected a shift of >= 0 .* got -1"):
        random_shift(images, -1, generator(), "replicate")
    assert random_shift(images, 20, generator(), "replicate").shape == images.shape


def test_no_images() -> None:
    assert augment_cifar(random_images()[:0], generator()).shape == (0, 3, 8, 8)
