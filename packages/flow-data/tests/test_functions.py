"""The one-dimensional targets against their formulas."""

import pytest
import torch
from flow_data import TARGETS, sample_target


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(w: float) -> float:
    return min(max(0.0, 0.05 * w, min((w - 0.95) / 0.05, 1.0)), 1.0)


def test_multiple_steps() -> None:
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    expected = [sum(step(v + shift) for shift in (2, 1, 0, -1)) for v in x.tolist()]
    value = TARGETS["multiplestepfunc"].function(x)
    assert torch.allclose(value, torch.tensor(expected, dtype=torch.float64))
    assert value[0] == 0
    assert value[-1] == 4


def test_multiple_steps_have_the_stated_slopes() -> None:
    x = torch.tensor([-1.5, -0.02, 0.5, 1.98], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(TARGETS["multiplestepfunc"].function(x).sum(), x)
    expected = torch.tensor([0.05, 20.0, 0.05, 20.0], dtype=torch.float64)
    assert torch.allclose(slope, expected)


@pytest.mark.parametrize("name", ["impflowfunc", "impflow1d"])
def test_kink(name: str) -> None:
    value = TARGETS[name].function(torch.tensor([-1.0, -0.5, 0.0, 0.1, 0.2]))
    assert torch.allclose(value, torch.tensor([-0.1, -0.05, 0.0, 1.0, 2.0]))


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_fill_the_domain(name: str) -> None:
    x, y = sample_target(name, 10_000, seeded(0))
    low, high = TARGETS[name].domain
    assert x.shape == y.shape == (10_000, 1)
    assert low <= x.min() < low + 0.01
    assert high - 0.01 < x.max() <= high
    assert torch.equal(y, TARGETS[name].function(x))
    # Mean of a uniform law, within five standard errors.
    assert abs(x.mean() - (low + high) / 2) < 5 * (high - low) / (12 * 10_000) ** 0.5


def test_inputs_are_fixed_by_the_generator() -> None:
    before = torch.get_rng_state()
    first, _ = sample_target("impflow1d", 10, seeded(1))
    second, _ = sample_target("impflow1d", 10, seeded(1), dtype=torch.float64)
    assert torch.equal(first, second.float())
    assert torch.equal(before, torch.get_rng_state())


def test_domains() -> None:
    domains = {name: target.domain for name, target in TARGETS.items()}
    assert domains == {
        "multiplestepfunc": (-2.0, 2.0),
        "impflowfunc": (-1.0, 1.0),
        "impflow1d": (-1.0, 0.2),
    }


def test_bad_requests() -> None:
    with pytest.raises(ValueError, match="did you mean impflowfunc"):
        sample_target("impflowfun", 1)
    with pytest.raises(ValueError, match="pairs >= 0, got -2"):
        sample_target("impflowfunc", -2)
