"""Penalties on the conditioning of maps, against dense Jacobians and differences of losses."""

import inspect
import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from flow_core import (
    AffineCoupling,
    Chain,
    Monotone,
    Permutation,
    SandwichNet,
    SigmoidScale,
    StandardNormal,
    density_penalty,
    finite_difference_penalty,
    jacobian,
    jacobian_penalty,
    random_directions,
)
from flow_core.bijection import Bijection
from flow_core.regularizers import DirectionRule
from torch import Tensor

DIM = 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(count: int = 3) -> Tensor:
    return torch.randn(count, DIM, dtype=torch.float64, generator=seeded(1))


def couplings() -> Bijection:
    """Smooth ones, so that differences of losses converge."""
    torch.manual_seed(2)
    layers: list[Bijection] = []
    for _ in range(2):
        net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, DIM))
        layers += [AffineCoupling(net, SigmoidScale()), Permutation.reversal(DIM)]
    return Chain(layers).double()


def monotone() -> Bijection:
    torch.manual_seed(3)
    return Monotone(SandwichNet(DIM, [6], lipschitz=0.5, activation="staircase")).double()


MAPS = pytest.mark.parametrize("make", [couplings, monotone])


def test_directions_of_samples_have_length_one() -> None:
    x = torch.zeros(5, 2, 3, 3)
    lengths = random_directions(x, generator=seeded()).flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(5))


def test_directions_of_the_released_code_grow_with_dimension_over_batch() -> None:
    x = torch.zeros(16, 3, 8, 8)
    found = random_directions(x, "per_feature_over_batch", generator=seeded())
    assert torch.allclose(found.norm(dim=0), torch.ones(3, 8, 8))
    assert found.flatten(1).norm(dim=1).mean() == pytest.approx(math.sqrt(192 / 16), rel=0.02)


def test_directions_of_the_released_code_are_signs_of_a_batch_of_one() -> None:
    found = random_directions(torch.zeros(1, 7), "per_feature_over_batch", generator=seeded())
    assert torch.allclose(found.abs(), torch.ones(1, 7))


@pytest.mark.parametrize("rule", ["per_sample", "per_feature_over_batch"])
def test_directions_of_nothing_are_nothing(rule: DirectionRule) -> None:
    assert random_directions(torch.zeros(0, 3), rule).shape == (0, 3)


@MAPS
def test_differences_are_the_stretch_of_the_jacobian(make: Callable[[], Bijection]) -> None:
    bijection, x = make(), points()
    d = random_directions(x, generator=seeded(4))
    with torch.no_grad():
        z = bijection.transform(x)
        found = finite_difference_penalty(bijection.transform, x, z, d, step=3e-5)
        back = finite_difference_penalty(bijection.inverse, z, x, d, step=3e-5)
    stretched = (jacobian(bijection, x) @ d[:, :, None]).square().sum((1, 2))
    assert torch.allclose(found, stretched, rtol=1e-3)
    inverse = jacobian(bijection, z, direction="inverse")
    assert torch.allclose(back, (inverse @ d[:, :, None]).square().sum((1, 2)), rtol=1e-3)


@MAPS
def test_pulled_back_directions_are_those_of_the_jacobian(make: Callable[[], Bijection]) -> None:
    bijection, x = make(), points()
    v = random_directions(x, generator=seeded(5))
    found = jacobian_penalty(bijection.transform, x, v)
    exact = (jacobian(bijection, x).mT @ v[:, :, None]).square().sum((1, 2))
    assert torch.allclose(found, exact, rtol=1e-9)


def test_the_mean_over_directions_is_that_of_the_squared_singular_values() -> None:
    bijection, x = couplings(), points(1)
    many = x.expand(4000, DIM)
    v = random_directions(many, generator=seeded(6))
    found = jacobian_penalty(bijection.transform, many, v).detach().mean()
    expected = torch.linalg.svdvals(jacobian(bijection, x)).square().mean()
    assert float(found) == pytest.approx(float(expected), rel=0.05)


@MAPS
def test_gradients_of_all_penalties_are_those_of_differences(make: Callable[[], Bijection]) -> None:
    """Through the inverse too, and through z and x where they have a graph."""
    bijection, x = make(), points()
    d = random_directions(x, generator=seeded(7))
    base = StandardNormal((DIM,))

    def penalty() -> Tensor:
        z, log_det = bijection(x)
        forth = finite_difference_penalty(bijection.transform, x, z, d)
        back = finite_difference_penalty(bijection.inverse, z, x, d)
        pulled = jacobian_penalty(bijection.transform, x, d)
        pulled_back = jacobian_penalty(bijection.inverse, z, d)
        return density_penalty(base, z, log_det) + (forth + back + pulled + pulled_back).mean()

    weight = next(p for p in bijection.parameters() if p.ndim == 2)
    (gradient,) = torch.autograd.grad(penalty(), weight)
    along = torch.randn(weight.shape, dtype=torch.float64, generator=seeded(8))
    h = 1e-5
    with torch.no_grad():
        weight.add_(h * along)
        above = penalty()
        weight.add_(-2 * h * along)
        below = penalty()
    expected = (above - below) / (2 * h)
    assert float((gradient * along).sum()) == pytest.approx(float(expected), rel=1e-5)


def test_the_penalty_of_the_inverse_has_a_gradient() -> None:
    """Published, it had none without memory saving."""
    bijection, x = couplings(), points()
    z = bijection.transform(x).detach()
    d = random_directions(z, generator=seeded(9))
    penalty = finite_difference_penalty(bijection.inverse, z, x, d).mean()
    torch.autograd.backward(penalty)
    assert all(p.grad is not None and bool(p.grad.any()) for p in bijection.parameters())


def test_a_density_penalty_is_nats_summed_over_values() -> None:
    x = points()
    bijection = couplings()
    z, log_det = bijection(x)
    found = density_penalty(StandardNormal((DIM,)), z, log_det)
    log_p = -0.5 * z.square().sum(1) - 0.5 * DIM * math.log(2 * math.pi)
    exact = torch.linalg.slogdet(jacobian(bijection, x)).logabsdet
    assert torch.allclose(found, -(log_p + exact).mean(), rtol=1e-12)


def unchecked(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As it is without the type checks of the tests."""
    return cast(Callable[..., Tensor], inspect.unwrap(function))


def unmoved(u: Tensor) -> Tensor:
    return u


def doubled(u: Tensor) -> Tensor:
    return 2 * u


def test_bad_arguments_are_one_clear_error() -> None:
    x = points()
    difference, pulled = unchecked(finite_difference_penalty), unchecked(jacobian_penalty)
    with pytest.raises(ValueError, match="expected a rule in"):
        unchecked(random_directions)(x, "per_batch")
    with pytest.raises(ValueError, match="expected a positive step, got 0"):
        difference(unmoved, x, x, x, step=0.0)
    with pytest.raises(ValueError, match=r"expected directions of shape \(3, 4\), got \(3, 2\)"):
        difference(unmoved, x, x, x[:, :2])
    with pytest.raises(ValueError, match=r"expected value, F\(u\), of shape"):
        difference(unmoved, x, x[:, :2], x)
    with pytest.raises(ValueError, match=r"expected directions of shape \(3, 4\)"):
        pulled(doubled, x, x[:, :2])
    with pytest.raises(ValueError, match=r"expected z of shape \(batch, 5\)"):
        density_penalty(StandardNormal((5,)), x, x.sum(1))
