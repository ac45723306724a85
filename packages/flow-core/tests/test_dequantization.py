"""Likelihoods of integers where they are known."""

import math

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.dequantization import Dequantized, Dequantizer, UniformDequantizer, bits_per_dim
from flow_core.distributions import Flow
from flow_core.layers import ActNorm, Affine, LogitTransform
from flow_core.settings import Settings
from torch import Tensor

LEVELS = 5


def gaussian_model(levels: int = LEVELS) -> Dequantized:
    """y ~ N(0.5, 0.25²) for each of two values: P(x) is a product of differences of Φ."""
    bijection = Affine((2,))
    with torch.no_grad():
        bijection.log_scale.fill_(math.log(4.0))
        bijection.shift.fill_(-2.0)
    return Dequantized(Flow(StandardNormal((2,)), bijection), UniformDequantizer(), levels).double()


def exact_log_prob(x: Tensor, levels: int = LEVELS) -> Tensor:
    edges = torch.stack([x.double() / levels, (x.double() + 1) / levels])
    cdf: Tensor = torch.special.ndtr((edges - 0.5) / 0.25)
    mass: Tensor = (cdf[1] - cdf[0]).log().sum(1)
    return mass


def likelihood(model: Dequantized, x: Tensor, draws: int) -> Tensor:
    """log of the mean weight over draws made in one batch."""
    bound = model.log_prob_bound(x.repeat(draws, 1)).detach().view(draws, -1)
    return bound.logsumexp(0) - math.log(draws)


class Ramp(Dequantizer):
    """q(u) = 2u per value: a noise distribution with a density that is not 1."""

    def _draw(self, x: Tensor, noise: Tensor, using: Settings | None) -> tuple[Tensor, Tensor]:
        u = noise.sqrt()
        return u, (2 * u).log().flatten(1).sum(1)


def test_one_draw_is_a_lower_bound_on_average() -> None:
    torch.manual_seed(0)
    x = torch.tensor([[0, 4], [2, 2], [1, 3]])
    bound = gaussian_model().log_prob_bound(x.repeat(20_000, 1)).detach().view(-1, 3)
    error = bound.std(0) / math.sqrt(20_000)
    gap = exact_log_prob(x) - bound.mean(0)
    assert bool((gap > 3.5 * error).all())
    assert bool((gap < 0.5).all())


@pytest.mark.parametrize("dequantizer", [UniformDequantizer(), Ramp()])
def test_weights_are_unbiased_for_any_noise_density(dequantizer: Dequantizer) -> None:
    torch.manual_seed(0)
    x = torch.tensor([[0, 4], [2, 2], [1, 3]])
    model = Dequantized(gaussian_model().flow, dequantizer.double(), LEVELS)
    # Relative standard errors of the mean weight are below 0.004.
    assert torch.allclose(likelihood(model, x, 100_000), exact_log_prob(x), atol=0.02)


def test_importance_bound_is_the_log_of_the_mean_weight() -> None:
    model, x = gaussian_model(), torch.tensor([[0, 4], [2, 2]])
    torch.manual_seed(0)
    draws = torch.stack([model.log_prob_bound(x) for _ in range(7)])
    torch.manual_seed(0)
    assert torch.allclose(model.importance_bound(x, 7), draws.exp().mean(0).log())


def test_units_a_flow_that_is_uniform_gives_minus_d_log_levels() -> None:
    # A base this wide is flat over the unit square.
    x = torch.tensor([[0, 255]], dtype=torch.uint8)
    flow = Flow(StandardNormal((2,), temperature=1e3), Affine((2,)))
    model = Dequantized(flow, UniformDequantizer(), 256)
    flat = -2 * (0.5 * math.log(2 * math.pi) + math.log(1e3))
    assert float(model.log_prob_bound(x).detach()) == pytest.approx(
        flat - 2 * math.log(256), abs=1e-4
    )


def test_bits_per_dim_of_uniform_integers_is_the_number_of_bits() -> None:
    log_prob = torch.tensor([-12 * math.log(256.0)])
    assert float(bits_per_dim(log_prob, (3, 2, 2))) == pytest.approx(8.0)


def test_probabilities_of_all_integers_sum_to_at_most_one() -> None:
    torch.manual_seed(0)
    model = gaussian_model()
    grid = torch.cartesian_prod(torch.arange(LEVELS), torch.arange(LEVELS))
    total = float(likelihood(model, grid, 20_000).exp().sum())
    inside = float(exact_log_prob(grid).exp().sum())
    assert total == pytest.approx(inside, abs=0.01)


def test_noise_never_leaves_its_bin() -> None:
    class Top(Dequantizer):
        def _draw(self, x: Tensor, noise: Tensor, using: Settings | None) -> tuple[Tensor, Tensor]:
            below_one = torch.full(x.shape, 1 - 2**-24)
            return below_one, below_one.new_zeros(x.shape[0])

    seen: list[Tensor] = []
    model = Dequantized(Flow(StandardNormal((2,)), LogitTransform(0.0)), Top(), 256)
    model.flow.bijection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.tensor([[3, 255]])
    assert bool(torch.isfinite(model.log_prob_bound(x)).all())
    assert torch.equal((seen[0] * 256).floor().long(), x)


def test_samples_are_integers_with_the_right_frequencies() -> None:
    torch.manual_seed(0)
    model = gaussian_model()
    x = model.sample((20_000,))
    assert x.dtype == torch.int64
    assert x.shape == (20_000, 2)
    assert (int(x.min()), int(x.max())) == (0, LEVELS - 1)
    inner = torch.tensor([[k, 2] for k in range(1, LEVELS - 1)])
    expected = (exact_log_prob(inner) - 0.5 * exact_log_prob(torch.tensor([[2, 2]]))).exp()
    seen = torch.stack([(x[:, 0] == k).double().mean() for k in range(1, LEVELS - 1)])
    assert torch.allclose(seen, expected, atol=0.02)


def test_gradient_reaches_the_flow_and_forward_is_the_bound() -> None:
    model = gaussian_model()
    x = torch.tensor([[0, 4]])
    torch.manual_seed(3)
    bound = model(x)
    torch.manual_seed(3)
    assert torch.equal(bound, model.log_prob_bound(x))
    grads = torch.autograd.grad(bound.sum(), list(model.parameters()))
    assert all(bool((g != 0).all()) for g in grads)


def test_impossible_integers_have_no_probability() -> None:
    model = gaussian_model()
    x = torch.tensor([[0, 4], [0, 5], [-1, 2], [100, 200]])
    for bound in (model(x), model.importance_bound(x, 3)):
        assert torch.isfinite(bound).tolist() == [True, False, False, False]
        assert bound[1:].tolist() == [-math.inf] * 3
    bytes_ = gaussian_model(levels=256)
    assert torch.isfinite(bytes_(torch.tensor([[0, 255]], dtype=torch.uint8))).all()


def test_noise_comes_in_the_precision_of_the_flow() -> None:
    flow = Flow(StandardNormal((2,)), LogitTransform(0.05)).double()
    model = Dequantized(flow, UniformDequantizer(), LEVELS)
    assert model(torch.tensor([[0, 4]])).dtype == torch.float64
    assert model.initialize(torch.tensor([[0, 4]])).dtype == torch.float64


def test_bad_input_is_refused() -> None:
    model = gaussian_model()
    with pytest.raises(ValueError, match="expected integers, got"):
        model.log_prob_bound(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"integers from 0 to 4.*\[5\]"):
        model.initialize(torch.tensor([[0, 5]]))
    with pytest.raises(ValueError, match="at least one sample"):
        model.importance_bound(torch.tensor([[0, 4]]), 0)
    with pytest.raises(ValueError, match="at least two levels"):
        gaussian_model(levels=1)


@pytest.mark.parametrize("dequantizer", [UniformDequantizer(), Ramp()])
def test_given_noise_decides_what_is_drawn(dequantizer: Dequantizer) -> None:
    model = Dequantized(gaussian_model().flow, dequantizer.double(), LEVELS)
    x, noise = torch.tensor([[0, 4], [2, 2], [1, 3]]), torch.rand(3, 2, dtype=torch.float64)
    bound = model(x, noise=noise)
    assert torch.equal(bound, model.log_prob_bound(x, noise=noise))
    # A sample has its own, whichever others are with it.
    alone = torch.cat([model(x[i : i + 1], noise=noise[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, bound)
    u, log_q = dequantizer.rsample_and_log_prob(x, noise)
    expected = model.flow((x + u) / LEVELS) - log_q - 2 * math.log(LEVELS)
    torch.testing.assert_close(bound, expected)
    assert not torch.equal(model(x), bound)


def test_noise_of_none_is_that_of_the_default_generator() -> None:
    model, x = gaussian_model(), torch.tensor([[0, 4], [2, 2]])
    torch.manual_seed(0)
    bound = model(x)
    torch.manual_seed(0)
    assert torch.equal(bound, model(x, noise=torch.rand(2, 2, dtype=torch.float64)))


def test_noise_is_rounded_to_the_precision_of_the_model_and_stays_below_one() -> None:
    noise = torch.tensor([[0.0, 1 - 2**-40]], dtype=torch.float64)
    u, _ = UniformDequantizer().rsample_and_log_prob(torch.tensor([[1, 1]]), noise)
    assert u.dtype == torch.float32
    assert u.tolist() == [[0.0, 1 - 2**-24]]


def test_initialization_is_on_given_noise() -> None:
    flow = Flow(StandardNormal((2,)), ActNorm(2))
    model = Dequantized(flow, UniformDequantizer(), LEVELS)
    x = torch.randint(0, LEVELS, (50, 2), generator=torch.Generator().manual_seed(0))
    noise = torch.rand(50, 2)
    z = model.initialize(x, noise=noise)
    torch.testing.assert_close(z, flow.bijection.transform((x + noise) / LEVELS))
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 2), (3, 2, 1)])
def test_noise_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    model, x = gaussian_model(), torch.tensor([[0, 4], [2, 2], [1, 3]])
    message = r"UniformDequantizer: expected a uniform number .* of shape \(3, 2\), got"
    for call in (model, model.log_prob_bound, model.initialize):
        with pytest.raises(ValueError, match=message):
            call(x, noise=torch.rand(shape))
