"""Noise from a conditional flow, against dense Jacobians and known totals."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from flow_core.base import BaseDistribution, StandardNormal
from flow_core.blocks import Residual
from flow_core.combinators import Chain, Invert
from flow_core.dequantization import (
    Dequantized,
    Dequantizer,
    UniformDequantizer,
    VariationalDequantizer,
)
from flow_core.distributions import Flow
from flow_core.initialization import initialize
from flow_core.layers import (
    ActNorm,
    Affine,
    AffineCoupling,
    LogitTransform,
    Permutation,
    Reshape,
    SelfNormLinear,
    SplitPrior,
    TrainingSurrogate,
)
from flow_core.lipschitz import update_lipschitz
from flow_core.maps import DenseNet, ResidualConditioner
from flow_core.models import DequantizerConfig, FlowConfig, image_dequantizer, image_flow
from flow_core.models.config import BlockOfNoise
from flow_core.record import record
from flow_core.settings import Settings, Solve
from flow_logdet import Exact, Kind, LogDet
from flow_solvers import BoundMap, Linearization, Tolerance
from torch import Tensor, nn

LEVELS = 3
# Largest |z| of the trapezoidal rule, and a bound of what lies beyond: the ends of bins, where
# σ(v) with v of a scale above 1.2 is nearer to 0 or 1 than e^(−9.6), in all bins together.
END = 8.0
LEFT_OUT = 5e-4


def moved(model: nn.Module, seed: int = 0, by: float = 0.4) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def wide(*shape: int, scale: float = 3.0) -> Affine:
    """v with a large scale, so that noise comes close to the ends of its bin."""
    layer = Affine(shape)
    torch.nn.init.constant_(layer.log_scale, -math.log(scale))
    return layer


def noise_model(size: int = 2, seed: int = 0) -> VariationalDequantizer:
    """Away from where training begins: noise that depends on x and is far from uniform."""
    torch.manual_seed(seed)
    layers = Chain(
        [
            wide(size),
            AffineCoupling.dense(size, 5, context_features=3),
            Permutation.reversal(size),
            AffineCoupling.dense(size, 5, context_features=3),
        ]
    )
    encoder = nn.Sequential(nn.Linear(size, 3), nn.Tanh())
    model = VariationalDequantizer(Flow(StandardNormal((size,)), layers), encoder, LEVELS)
    moved(model, seed)
    return model.double()


def draws(count: int, size: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, LEVELS, (count, size), generator=generator)
    return x, torch.rand(count, size, generator=generator, dtype=torch.float64)


def oracle(model: Dequantizer, x: Tensor, noise: Tensor) -> Tensor:
    """u is a function of uniform numbers: log q(u) = −log|det ∂u/∂noise|."""
    rows = []
    for one, own in zip(x, noise, strict=True):

        def u(point: Tensor, one: Tensor = one) -> Tensor:
            return model.rsample_and_log_prob(one[None], point[None])[0][0].flatten()

        dense = torch.func.jacrev(u)(own)
        rows.append(-torch.linalg.slogdet(dense.reshape(own.numel(), -1)).logabsdet)
    return torch.stack(rows)


def test_log_q_is_that_of_the_dense_jacobian() -> None:
    model, (x, noise) = noise_model(3), draws(8, 3)
    noise = 0.1 + 0.8 * noise  # autograd forms 1 − u, which is not exact for u near 1
    u, log_q = model.rsample_and_log_prob(x, noise)
    torch.testing.assert_close(log_q, oracle(model, x, noise), rtol=1e-9, atol=1e-9)
    assert float(log_q.detach().abs().min()) > 1e-3
    assert bool(((u > 0) & (u < 1)).all())


def test_log_q_of_images_is_that_of_the_dense_jacobian() -> None:
    config = DequantizerConfig(kind="variational", width=4)
    model = image_dequantizer(config, (1, 2, 4), LEVELS).double()
    x = torch.randint(0, LEVELS, (20, 1, 2, 4), generator=torch.Generator().manual_seed(0))
    model.initialize(x)
    moved(model, by=0.1)
    noise = torch.rand(x.shape, dtype=torch.float64)
    _, log_q = model.rsample_and_log_prob(x, noise)
    torch.testing.assert_close(log_q[:4], oracle(model, x[:4], noise[:4]), rtol=1e-8, atol=1e-8)


def noise_of_blocks(
    block: BlockOfNoise, shape: tuple[int, int, int] = (1, 2, 2)
) -> VariationalDequantizer:
    """On small images, whose log-determinants are exact, away from where training begins."""
    torch.manual_seed(0)
    config = DequantizerConfig(
        kind="variational", block=block, steps=2, width=16, inner=16, growth=4, depth=2
    )
    solve = Solve(tolerance=Tolerance(rtol=1e-13))
    model = image_dequantizer(config, shape, LEVELS, solve=solve).double().eval()
    assert isinstance(model, VariationalDequantizer)
    moved(model, by=0.05)
    update_lipschitz(model, 50)
    layers = Chain([wide(*shape, scale=1.6).double(), model.flow.bijection])
    flow = Flow(model.flow.base, layers, shape)
    return VariationalDequantizer(flow, model.encoder, LEVELS).double().eval()


BLOCKS: list[BlockOfNoise] = ["residual", "monotone"]


@pytest.mark.parametrize("block", BLOCKS)
def test_log_q_of_blocks_is_that_of_the_dense_jacobian(block: BlockOfNoise) -> None:
    model = noise_of_blocks(block)
    x = torch.randint(0, LEVELS, (4, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    noise = torch.rand(x.shape, dtype=torch.float64)
    u, log_q = model.rsample_and_log_prob(x, noise)
    rows = [dense_log_q(model, one, own) for one, own in zip(x, noise, strict=True)]
    torch.testing.assert_close(log_q, torch.stack(rows), rtol=1e-8, atol=1e-8)
    other = model.rsample_and_log_prob((x + 1) % LEVELS, noise)[0]
    assert float((u - other).detach().abs().min()) > 1e-6


def dense_log_q(model: Dequantizer, x: Tensor, noise: Tensor) -> Tensor:
    """As `oracle`, row by row: solves cannot be vectorised."""

    def u(point: Tensor) -> Tensor:
        return model.rsample_and_log_prob(x[None], point[None])[0][0].flatten()

    # torch declares it without types.
    dense: Tensor = torch.autograd.functional.jacobian(u, noise)  # type: ignore[no-untyped-call]
    log_det: Tensor = torch.linalg.slogdet(dense.reshape(noise.numel(), -1)).logabsdet
    return -log_det


class Counted(nn.Module):
    """A module that counts its calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.inner(x)
        return result


def test_residual_blocks_make_noise_without_a_solve() -> None:
    x = torch.zeros(2, 1, 2, 2, dtype=torch.int64)
    for block, solves in zip(BLOCKS, (0, 2), strict=True):
        model = noise_of_blocks(block)
        conditioners = [m for m in model.modules() if isinstance(m, ResidualConditioner)]
        counted = [Counted(conditioner.trunk) for conditioner in conditioners]
        for conditioner, trunk in zip(conditioners, counted, strict=True):
            conditioner.set_submodule("trunk", trunk)
        with record() as report:
            model.rsample_and_log_prob(x)
        assert len(report.solutions) == solves
        # However often a solve evaluates the rest.
        assert [trunk.calls for trunk in counted] == [1, 1]


def logit_normal(x: Tensor) -> Tensor:
    """log P(x) of independent values that are standard normal behind a logit, in closed form."""
    edges = torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64).logit()
    masses: Tensor = torch.special.ndtr(edges[1:]) - torch.special.ndtr(edges[:-1])
    return masses.log()[x].flatten(1).sum(1)


@pytest.mark.parametrize("block", BLOCKS)
def test_bounds_are_ordered_and_below_the_likelihood(block: BlockOfNoise) -> None:
    layers = Chain([LogitTransform(0.0), Reshape.flatten((1, 1, 2))])
    flow = Flow(StandardNormal((2,)), layers, (1, 1, 2))
    model = Dequantized(flow, noise_of_blocks(block, (1, 1, 2)), LEVELS).double().eval()
    x = torch.tensor([[0, 2], [1, 1]]).view(2, 1, 1, 2)
    known, count = logit_normal(x), 8000
    torch.manual_seed(0)
    with torch.no_grad():
        many = x.repeat_interleave(count, 0)
        single = model.log_prob_bound(many).view(2, -1)
        weighted = model.importance_bound(many, 4).view(2, -1)
    # Five standard errors: one false alarm in millions of seeds.
    errors = [5 * bound.std(1) / count**0.5 for bound in (single, weighted)]
    assert bool((single.mean(1) + sum(errors) < weighted.mean(1)).all())
    assert bool((weighted.mean(1) + errors[1] < known).all())
    z, density, cell = grid(2)
    noise = torch.special.ndtr(z).view(-1, 1, 1, 2)
    for image, expected in zip(x, known.exp(), strict=True):
        with torch.no_grad():
            weights = model(image.expand(len(z), 1, 1, 2), noise=noise).exp()
        assert float((weights * density).sum()) * cell == pytest.approx(
            float(expected), abs=LEFT_OUT
        )


def test_noise_depends_on_the_integers() -> None:
    model, (_, noise) = noise_model(), draws(1)
    first, last = torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), LEVELS - 1)
    u = [model.rsample_and_log_prob(x, noise)[0] for x in (first, last)]
    assert float((u[0] - u[1]).detach().abs().min()) > 1e-3


def test_the_encoder_gets_integers_between_minus_one_and_one() -> None:
    model, seen = noise_model(), list[Tensor]()
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.rsample_and_log_prob(torch.tensor([[0, 1], [2, 2]]))
    assert seen[0].tolist() == [[-1.0, 0.0], [1.0, 1.0]]


def test_gradients_of_noise_and_density() -> None:
    model, (x, noise) = noise_model(), draws(2)
    parameters = list(model.parameters())

    def run(noise: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return model.rsample_and_log_prob(x, noise)

    inputs = (noise.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True, atol=1e-4)


class WithoutSlope(Dequantizer):
    """The biased twin: log q of v, as if it were that of u."""

    def __init__(self, honest: VariationalDequantizer) -> None:
        super().__init__()
        self.honest = honest

    def _draw(self, x: Tensor, noise: Tensor, using: Settings | None) -> tuple[Tensor, Tensor]:
        u, log_q = self.honest.rsample_and_log_prob(x, noise, using=using)
        return u, log_q + (u.log() + (-u).log1p()).sum(1)


class SignOfLogDet(WithoutSlope):
    """Another one: log|det ∂v/∂z| counted with the wrong sign."""

    def _draw(self, x: Tensor, noise: Tensor, using: Settings | None) -> tuple[Tensor, Tensor]:
        u, log_q = self.honest.rsample_and_log_prob(x, noise, using=using)
        log_slope = (u.log() + (-u).log1p()).sum(1)
        z = torch.special.ndtri(noise)
        gaussian = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(1)
        return u, 2 * (gaussian - log_slope) - log_q


def total(dequantizer: Dequantizer, size: int) -> float:
    """Σ P(x) over all integers: the mean importance weight by the trapezoidal rule.

    Noise Φ(z) on a grid of z, weighed by its density. Random noise would not do: at the ends of
    bins log q falls like a Gaussian, and the variance of weights is infinite.
    """
    data = Flow(StandardNormal((size,)), LogitTransform(0.0))
    model = Dequantized(data, dequantizer, LEVELS).double()
    z, density, cell = grid(size)
    integers = torch.cartesian_prod(*[torch.arange(LEVELS)] * size).reshape(-1, size)
    noise = torch.special.ndtr(z).repeat(len(integers), 1)
    weights = model(integers.repeat_interleave(len(z), 0), noise=noise).detach().exp()
    return float((weights.view(len(integers), -1) * density).sum()) * cell


def grid(size: int) -> tuple[Tensor, Tensor, float]:
    """Points of the trapezoidal rule, the standard normal density there, and volume of a cell."""
    line = torch.linspace(-END, END, 81, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * size).reshape(-1, size)
    density = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(1).exp()
    return z, density, float(line[1] - line[0]) ** size


@pytest.mark.parametrize("seed", [0, 1])
def test_probabilities_of_all_integers_sum_to_one(seed: int) -> None:
    assert total(noise_model(seed=seed), 2) == pytest.approx(1, abs=LEFT_OUT)


@pytest.mark.parametrize("twin", [WithoutSlope, SignOfLogDet])
def test_a_density_that_is_none_does_not_sum_to_one(twin: type[WithoutSlope]) -> None:
    assert abs(total(twin(noise_model()), 2) - 1) > 20 * LEFT_OUT


def test_in_one_dimension_probabilities_sum_to_one() -> None:
    prior = Invert(SplitPrior.dense(3, 1, 4))
    flow = Flow(StandardNormal((1,)), Chain([wide(1), prior]))
    model = VariationalDequantizer(flow, nn.Linear(1, 3), LEVELS)
    moved(model, by=0.1)
    assert total(model, 1) == pytest.approx(1, abs=LEFT_OUT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_stays_in_its_bin_and_densities_finite(dtype: torch.dtype) -> None:
    model = noise_model().to(dtype)
    with torch.no_grad():  # v is far out: σ(v) rounds to 0 and to 1
        for p in model.parameters():
            p.mul_(40)
    ends = torch.tensor([0.0, 1e-30, 0.5, 1 - torch.finfo(dtype).eps / 2], dtype=dtype)
    noise = torch.cartesian_prod(ends, ends)
    x = torch.full(noise.shape, LEVELS - 1)
    u, log_q = model.rsample_and_log_prob(x, noise)
    assert bool(((u >= 0) & (u < 1)).all())
    assert float(u.detach().max()) == 1 - torch.finfo(dtype).eps / 2
    assert bool(torch.isfinite(log_q).all())


def test_quantiles_are_those_of_the_normal_up_to_their_resolution() -> None:
    base = StandardNormal((3,), temperature=0.5).double()
    p = torch.tensor([[0.025, 0.5, 0.975]], dtype=torch.float64)
    expected = torch.tensor([[-0.979982, 0.0, 0.979982]], dtype=torch.float64)
    torch.testing.assert_close(base.quantile(p), expected, atol=1e-6, rtol=0)
    ends = torch.tensor([[0.0, 1.0, 1e-40]])
    z = StandardNormal((3,)).quantile(ends)
    assert 5.2 < float(z.abs().min()) <= float(z.abs().max()) < 5.5
    assert float(base.quantile(ends.double()).abs().max()) < 8.3 * 0.5


def all_but_uniform(model: VariationalDequantizer, x: Tensor) -> None:
    u, log_q = model.rsample_and_log_prob(x)
    u, log_q = u.detach(), log_q.detach()
    # u = σ(π/√3·z): the mean of log q is 0.0105 nats a value; a uniform u has variance 1/12.
    assert float(log_q.mean()) / x[0].numel() == pytest.approx(0.0105, abs=0.01)
    assert float(u.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(u.var()) == pytest.approx(1 / 12, abs=0.01)


def test_a_model_starts_with_noise_that_is_all_but_uniform() -> None:
    torch.manual_seed(0)
    shape = (3, 4, 6)
    config = DequantizerConfig(kind="variational", steps=3, width=8)
    dequantizer = image_dequantizer(config, shape, 16)
    assert isinstance(dequantizer, VariationalDequantizer)
    flow = image_flow(FlowConfig(num_blocks=1, block_size=1, coupling_width=4), shape)
    model = Dequantized(flow, dequantizer, 16)
    x = torch.randint(0, 16, (200, *shape))
    with pytest.raises(RuntimeError, match="to be initialized from data"):
        model(x)
    report = initialize(model, x)
    names = [f"dequantizer.flow.bijection.layers.{i}" for i in (1, 4, 7)]
    assert [name for name in report.initialized if name.startswith("dequantizer")] == names
    assert len(report.initialized) == 4
    all_but_uniform(dequantizer, x)


def test_the_flow_is_initialized_on_the_noise_of_the_initialized_dequantizer() -> None:
    torch.manual_seed(0)
    dequantizer = image_dequantizer(DequantizerConfig(kind="variational"), (1, 4, 4), LEVELS)
    flow = Flow(StandardNormal((1, 4, 4)), ActNorm(1))
    model = Dequantized(flow, dequantizer, LEVELS)
    x, noise = torch.randint(0, LEVELS, (50, 1, 4, 4)), torch.rand(50, 1, 4, 4)
    z = model.initialize(x, noise=noise)
    u, _ = dequantizer.rsample_and_log_prob(x, noise)
    torch.testing.assert_close(z, flow.bijection.transform((x + u) / LEVELS))
    torch.testing.assert_close(z.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_forward_reaches_every_parameter_and_takes_noise() -> None:
    data = Flow(StandardNormal((2,)), Chain([LogitTransform(0.05), ActNorm(2)])).double()
    model = Dequantized(data, noise_model(), LEVELS)
    x, noise = draws(20)
    model.initialize(x, noise=noise)
    bound = model(x, noise=noise)
    assert torch.equal(bound, model.log_prob_bound(x, noise=noise))
    alone = torch.stack([model(x[i : i + 1], noise=noise[i : i + 1])[0] for i in range(20)])
    torch.testing.assert_close(alone, bound)
    grads = torch.autograd.grad(bound.sum(), list(model.parameters()))
    assert all(bool((g != 0).any()) for g in grads)
    assert model.importance_bound(x, 3).shape == (20,)


@dataclass(frozen=True)
class Counting:
    """An exact estimator that says for what it was asked."""

    calls: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])

    def linearize(self, bound: BoundMap, w: Tensor) -> Linearization:
        self.calls.append(tuple(w.shape))
        return Exact().linearize(bound, w)

    def log_det(self, linearization: Linearization, kind: Kind) -> LogDet:
        return Exact().log_det(linearization, kind)


def test_settings_reach_the_noise_model() -> None:
    block = Residual(DenseNet(2, growth=4, depth=1, context_features=3))
    flow = Flow(StandardNormal((2,)), Chain([ActNorm(2), block]))
    dequantizer = VariationalDequantizer(flow, nn.Linear(2, 3), LEVELS).double()
    update_lipschitz(dequantizer)
    data = Flow(StandardNormal((2,)), LogitTransform(0.05)).double()
    model = Dequantized(data, dequantizer, LEVELS)
    x, _ = draws(20)
    model.initialize(x)
    counting = Counting()
    for call in (model, model.log_prob_bound):
        call(x, using=Settings(estimator=counting))
    dequantizer.rsample_and_log_prob(x, using=Settings(estimator=counting))
    assert counting.calls == [(20, 2)] * 3


def test_noise_has_a_density_where_the_model_is_trained_on_none() -> None:
    layers = Chain([LogitTransform(0.05), SelfNormLinear(2)])
    model = Dequantized(Flow(StandardNormal((2,)), layers).double(), noise_model(), LEVELS)
    x, _ = draws(5)
    terms = TrainingSurrogate(model)(x)
    assert bool(torch.isfinite(terms.surrogate).all())


def test_uniform_noise_is_made_by_its_name() -> None:
    assert isinstance(image_dequantizer(DequantizerConfig(), (1, 3, 3), 2), UniformDequantizer)


class OtherBase(BaseDistribution):
    """Not normal."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def log_prob(self, z: Tensor) -> Tensor:
        return z.flatten(1).sum(1)

    def rsample(self, count: int) -> Tensor:
        return torch.zeros(count, *self.event_shape)


def test_what_cannot_be_noise_is_refused() -> None:
    couplings = AffineCoupling.dense(2, 3, context_features=3)
    encoder = nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"StandardNormal base .* got OtherBase"):
        VariationalDequantizer(Flow(OtherBase((2,)), couplings), encoder, 3)
    plain = Flow(StandardNormal((2,)), AffineCoupling.dense(2, 3))
    with pytest.raises(ValueError, match="uses_context=False"):
        VariationalDequantizer(plain, encoder, 3)
    with pytest.raises(ValueError, match="at least two levels, got 1"):
        VariationalDequantizer(Flow(StandardNormal((2,)), couplings), encoder, 1)
    with pytest.raises(ValueError, match=r"expected integers of shape \(batch, 2\), got \(4, 3\)"):
        noise_model().rsample_and_log_prob(torch.zeros(4, 3, dtype=torch.int64))
    flow = Flow(StandardNormal((2,)), LogitTransform(0.05))
    with pytest.raises(ValueError, match=r"for 5 levels of shape .* got one for 3 of shape"):
        Dequantized(flow, noise_model(), 5)
    with pytest.raises(ValueError, match="VariationalDequantizer: expected a uniform number"):
        noise_model().rsample_and_log_prob(torch.zeros(4, 2, dtype=torch.int64), torch.rand(4, 3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps: expected a positive integer, got 0"),
        ({"steps": 10**6}, "steps: expected at most 1024"),
        ({"width": 10**6}, "width: expected at most 8192"),
        ({"block": "residual", "inner": 20}, "inner: expected a multiple of 16, got 20"),
        ({"block": "monotone", "coeff": 1.0}, "coeff: expected between 0 and 1"),
        ({}, "even height and width, got 3x4"),
    ],
)
def test_bad_configs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_dequantizer(DequantizerConfig(kind="variational", **fields), (1, 3, 4), 8)
