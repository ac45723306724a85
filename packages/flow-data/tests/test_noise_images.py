"""Sets of noise, and images made to fit a model."""

import pytest
import torch
from flow_data import NOISE, ImageSet, fitted, in_grey, noise_images
from PIL import Image

SHAPE = (3, 32, 32)


def set_of(images: torch.Tensor, levels: int = 256) -> ImageSet:
    return ImageSet(images.to(torch.uint8), torch.full((len(images),), -1), levels, "some")


@pytest.mark.parametrize("kind", NOISE)
def test_an_image_follows_from_kind_seed_and_number_alone(kind: str) -> None:
    before = torch.get_rng_state()
    images = noise_images(kind, 3, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    assert (images.name, images.levels, images.shape) == (kind, 256, SHAPE)
    assert torch.equal(noise_images(kind, 2, SHAPE, first=1).images, images.images[1:])
    assert not torch.equal(noise_images(kind, 3, SHAPE, seed=1).images, images.images)
    assert not torch.equal(images.images[0], images.images[1])


@pytest.mark.parametrize(
    ("kind", "least", "largest"),
    [
        ("gaussian", 0, 255),
        ("uniform", 0, 255),
        ("rademacher", 0, 255),
        ("gaussian-clipped", 2, 253),
        ("uniform-clipped", 2, 253),
        ("rademacher-clipped", 2, 253),
        ("gaussian-resized", 0, 255),
    ],
)
def test_ranges(kind: str, least: int, largest: int) -> None:
    """The published clip is .01 and .99, not 0 and 1."""
    images = noise_images(kind, 16, SHAPE).images
    assert (int(images.min()), int(images.max())) == (least, largest)


def test_the_laws() -> None:
    """A published Gaussian is at its ends in 62 % of the values; a plain one is not."""

    def ends(kind: str) -> float:
        images = noise_images(kind, 40, SHAPE).images
        return float(((images <= images.min()) | (images >= images.max())).double().mean())

    saturated = 2 * float(torch.special.ndtr(torch.tensor(-0.49)))
    assert ends("gaussian-clipped") == pytest.approx(saturated, abs=0.01)
    assert ends("gaussian") < 0.005
    assert ends("uniform") == pytest.approx(2 / 256, abs=0.002)
    assert ends("rademacher") == ends("rademacher-clipped") == 1
    plain = noise_images("gaussian", 40, SHAPE).images.double() / 256
    # Standard deviation of a normal of 1/4 that is cut at two of them.
    assert float(plain.std()) == pytest.approx(0.25 * 0.8796, abs=0.003)
    assert float(plain.mean()) == pytest.approx(0.5, abs=0.005)


def test_the_published_resized_noise_is_smooth() -> None:
    images = noise_images("gaussian-resized", 8, SHAPE).images.double()
    plain = noise_images("gaussian-clipped", 8, SHAPE).images.double()
    together = [torch.corrcoef(x.flatten(0, 2)[:, :2].T)[0, 1] for x in (images, plain)]
    assert float(together[0]) > 0.2 > abs(float(together[1]))


def test_other_kinds_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean gaussian"):
        noise_images("gausian", 1, SHAPE)
    with pytest.raises(ValueError, match="at least one image"):
        noise_images("uniform", 0, SHAPE)


@pytest.mark.parametrize("size", [(14, 14), (32, 32), (20, 33)])
def test_sizes_are_those_of_pillow(size: tuple[int, int]) -> None:
    images = noise_images("uniform", 1, (1, 28, 28))
    found = fitted(images, (1, *size)).images[0, 0]
    pillow = Image.fromarray(images.images[0, 0].numpy()).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    expected = torch.tensor(list(pillow.tobytes())).view(size)
    assert int((found.long() - expected).abs().max()) <= 1


def test_channels_and_levels() -> None:
    colours = set_of(torch.randint(256, (5, 3, 4, 4)))
    grey = fitted(colours, (1, 4, 4)).images
    pillow = Image.fromarray(colours.images[0].permute(1, 2, 0).numpy()).convert("L")
    expected = torch.tensor(list(pillow.tobytes())).view(4, 4)
    assert int((grey[0, 0].long() - expected).abs().max()) <= 1
    assert torch.equal(in_grey(colours).images, grey)
    assert in_grey(colours).name == "some-grey"
    back = fitted(set_of(grey), (3, 4, 4)).images
    assert torch.equal(back, grey.expand(-1, 3, -1, -1))
    assert torch.equal(fitted(colours, (3, 4, 4), 32).images, colours.with_bits(5).images)
    digits = set_of(torch.arange(17).view(1, 1, 1, 17), 17)
    spread = fitted(digits, (1, 1, 17))
    assert (int(spread.images.min()), int(spread.images.max()), spread.levels) == (0, 255, 256)
    assert torch.equal(fitted(spread, (1, 1, 17), 17).images, digits.images)
    with pytest.raises(ValueError, match="expected images of 2 channels"):
        fitted(colours, (2, 4, 4))
