from collections.abc import Callable

import pytest
import torch
from flow_logdet import Diluted, Fixed, Gaussian, Probe, Rademacher
from torch import Tensor

IMAGE = torch.zeros(4, 3, 5, 6, dtype=torch.float64)
VECTOR = torch.zeros(4, 10, dtype=torch.float64)


@pytest.mark.parametrize("probe", [Rademacher(), Gaussian(), Diluted(), Diluted(3, channels=2)])
@pytest.mark.parametrize("point", [IMAGE, VECTOR])
def test_groups_add_up_to_unit_covariance(probe: Probe, point: Tensor) -> None:
    torch.manual_seed(0)
    count = 40_000 // point.numel() * 10
    draw = probe.draw(point, count)
    flat = draw.sum(1).flatten(2).flatten(0, 1)
    covariance = flat.T @ flat / len(flat)
    # The largest of at most 90² entries of sd ≤ √2/√n; 6.5 sd: false-positive rate below 1e-6.
    bound = 6.5 * (2 / len(flat)) ** 0.5
    assert (covariance - torch.eye(flat.shape[1])).abs().max() < bound
    assert draw.dtype == point.dtype


@pytest.mark.parametrize("probe", [Rademacher(), Diluted()])
def test_signs_are_signs(probe: Probe) -> None:
    draw = probe.draw(IMAGE, 3)
    assert torch.equal(draw.sum(1).abs(), torch.ones(3, *IMAGE.shape, dtype=torch.float64))


def test_colours_are_channel_and_parity() -> None:
    draw = Diluted(stride=2).draw(IMAGE, 1)[0, :, 0]
    assert draw.shape == (12, 3, 5, 6)
    for vector in draw:
        channels, rows, columns = vector.nonzero().T
        assert len(channels.unique()) == len((rows % 2).unique()) == 1
        assert len((columns % 2).unique()) == 1
    assert torch.equal(draw.abs().sum(0), torch.ones(3, 5, 6, dtype=torch.float64))


def test_dilution_of_vectors_and_of_small_maps() -> None:
    assert Diluted().draw(VECTOR, 2).shape == (2, 4, 4, 10)
    assert Diluted().draw(VECTOR[:, :3], 1).shape == (1, 3, 4, 3)
    assert Diluted().draw(IMAGE[..., :1, :1], 1).shape == (1, 3, 4, 3, 1, 1)
    assert Diluted(channels=2).draw(IMAGE, 1).shape == (1, 8, *IMAGE.shape)


def test_fixed_probes_are_handed_over() -> None:
    tensor = torch.randn(2, *VECTOR.shape)
    assert torch.equal(Fixed(tensor).draw(VECTOR, 2)[:, 0], tensor.double())
    with pytest.raises(ValueError, match=r"shape \(3, 4, 10\), got \(2, 4, 10\)"):
        Fixed(tensor).draw(VECTOR, 3)


def test_bad_dilution() -> None:
    with pytest.raises(ValueError, match="expected vectors"):
        Diluted().draw(torch.zeros(2, 3, 4), 1)
    with pytest.raises(ValueError, match="stride to be at least 1"):
        Diluted(stride=0)


def test_probes_follow_the_default_generator() -> None:
    def draws(make: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        torch.manual_seed(7)
        first = make()
        torch.manual_seed(7)
        return first, make()

    for probe in (Rademacher(), Gaussian(), Diluted()):
        first, second = draws(lambda probe=probe: probe.draw(IMAGE, 1))  # type: ignore[misc]
        assert torch.equal(first, second)
