"""Attacks on inverses: what is known to be worst is found, and no error exceeds its bound."""

import itertools
import json
import math
from collections.abc import Callable
from typing import ClassVar, Literal, cast

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Monotone, Residual
from flow_core.combinators import Chain
from flow_core.diagnostics import (
    InvertibleMap,
    Point,
    ProjectedAscent,
    attack_inverse,
    inverse_error_bound,
    invertible_map,
)
from flow_core.diagnostics.attack.errors import Followed
from flow_core.distributions import Flow
from flow_core.layers import Affine, AffineCoupling, Permutation, UpperHalfSigmoidScale
from flow_core.maps import DenseNet, FeedForwardNet
from flow_core.settings import Settings, Solve
from flow_core.unrolled import UnrolledSolve
from flow_solvers import FunctionMap, Picard, Status, Tolerance, resolvent
from torch import Tensor, nn
from torch.distributions import transforms

SHORT = ProjectedAscent(steps=4, step_size=4e-3, seeds=(0, 1))


def data(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def seeded(seed: int, make: Callable[[], Bijection]) -> Bijection:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def randomised(make: Callable[[], Bijection]) -> Bijection:
    def made() -> Bijection:
        model = make()
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
        return model

    return seeded(0, made)


def rotation(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


class WronglyInverted(nn.Module):
    """x ↦ A·x with an inverse that adds M·x, whose singular values are known."""

    def __init__(self, *singular_values: float) -> None:
        super().__init__()
        matrix = rotation(0.4) @ torch.diag(torch.tensor([3.0, 0.5], dtype=torch.float64))
        values = torch.tensor(singular_values, dtype=torch.float64)
        self.missed = rotation(1.1) @ torch.diag(values) @ rotation(-0.3)
        back = (torch.eye(2, dtype=torch.float64) + self.missed) @ torch.linalg.inv(matrix)
        self.matrix, self.back = nn.Parameter(matrix), nn.Parameter(back)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def inverse(self, y: Tensor) -> Tensor:
        return y @ self.back.T


def test_the_worst_corner_of_a_linear_error_is_found() -> None:
    model, x, epsilon = WronglyInverted(0.3, 0.01), data(5, 2, dtype=torch.float64), 0.1
    settings = ProjectedAscent(epsilon=epsilon, steps=30, step_size=0.01, seeds=(0, 1), restarts=4)
    found = attack_inverse(model, x, settings)
    # A convex function is largest in a corner.
    corners = torch.tensor(list(itertools.product((-epsilon, epsilon), repeat=2)))
    reached = ((x[:, None] + corners) @ model.missed.T).norm(dim=2)
    assert torch.allclose(found.errors.amax(1), reached.amax(1).expand(2, -1), atol=1e-12)
    assert torch.allclose(found.worst, (x + corners[reached.argmax(1)]).expand(2, -1, -1))


def test_without_a_preference_of_the_sample_it_goes_along_the_first_singular_vector() -> None:
    model, zero = WronglyInverted(0.3, 0.01), torch.zeros(1, 2, dtype=torch.float64)
    found = attack_inverse(model, zero, ProjectedAscent(epsilon=0.1, steps=30, step_size=0.01))
    first = rotation(-0.3)[0]
    assert torch.equal(found.worst.sign().abs(), torch.ones(3, 1, 2, dtype=torch.float64))
    assert torch.allclose((found.worst.squeeze(1) @ first).abs(), 0.1 * first.abs().sum())


def test_an_exact_inverse_has_errors_of_rounding_and_still_is_attacked() -> None:
    def make() -> Bijection:
        layers = [AffineCoupling.dense(4, 8, UpperHalfSigmoidScale()), Permutation.reversal(4)]
        return Chain([*layers, Affine((4,))]).double()

    model = randomised(make)
    found = attack_inverse(model, data(6, 4, dtype=torch.float64), SHORT)
    assert 0 < float(found.errors.max()) < 1e-14
    assert found.first_broken is None
    # Nothing is wide enough to see the rounding of float64.
    assert found.bound is None
    assert "expected samples in float32" in found.failures[0]


class Watched(nn.Module):
    """Remembers what it was called with, whoever copies it."""

    seen: ClassVar[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return 3 * x

    def inverse(self, y: Tensor) -> Tensor:
        return y / 3 + 0.1 * y.square()


@pytest.mark.parametrize("limits", [(0.0, 1.0), "own", None])
@pytest.mark.parametrize("epsilon", [0.5 / 32, 0.3, 0.0])
def test_ball_and_limits_are_kept_exactly(
    limits: tuple[float, float] | Literal["own"] | None, epsilon: float
) -> None:
    x = data(7, 3, 4, 4)
    Watched.seen.clear()
    attack_inverse(Watched(), x, ProjectedAscent(epsilon, steps=9, step_size=0.04, limits=limits))
    low, high = (-math.inf, math.inf) if limits is None else (0.0, 1.0)
    least, most = x.flatten(1).amin(1), x.flatten(1).amax(1)
    assert len(Watched.seen) > 3 * 10
    for one in Watched.seen:
        assert float((one.double() - x.double()).abs().max()) <= epsilon
        assert float(one.min()) >= low
        assert float(one.max()) <= high
        if limits == "own":
            assert bool((one.flatten(1).amin(1) >= least).all())
            assert bool((one.flatten(1).amax(1) <= most).all())
    # And it does reach the ends.
    furthest = max(float((one - x).abs().max()) for one in Watched.seen)
    assert furthest == pytest.approx(epsilon, rel=1e-5)


def test_samples_outside_of_the_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="expected samples in"):
        attack_inverse(Watched(), 2 * data(3, 4), ProjectedAscent(limits=(0.0, 1.0)))


class Breaks(nn.Module):
    """Comes back as what is no number beyond a threshold."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, y: Tensor) -> Tensor:
        lost = torch.where(y > 1.0, self.value, 1.0)
        return (y + 0.1 * y.square()) * lost


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sample_that_breaks_ends_its_own_attack_and_no_other(value: float) -> None:
    x = data(5, 3) * 0.5 + 0.2
    settings = ProjectedAscent(epsilon=0.05, steps=12, step_size=5e-3, seeds=(3, 4))
    alone = attack_inverse(Breaks(value), x, settings)
    assert bool(alone.errors.isfinite().all())
    near = x.clone()
    near[2] = 0.98
    found = attack_inverse(Breaks(value), near, settings)
    others = [0, 1, 3, 4]
    assert torch.equal(found.errors[:, :, others], alone.errors[:, :, others])
    assert torch.equal(found.worst[:, others], alone.worst[:, others])
    for seed, errors in enumerate(found.errors):
        step = found.broken_at[seed][2]
        assert step is not None
        assert found.broken_at[seed] == (None, None, step, None, None)
        assert bool(errors[:step, 2].isfinite().all())
        assert not bool(errors[step:, 2].isfinite().any())
        assert float(found.worst[seed, 2].max()) > 1.0
    last, first = found.course[-1], found.course[0]
    assert (last.nan, last.inf) == ((2, 0) if math.isnan(value) else (0, 2))
    assert math.isfinite(last.mean)
    assert math.isfinite(last.largest)
    assert first.nan + first.inf <= 2
    assert (found.largest.finite, found.largest.samples) == (8, 10)
    told = json.loads(found.to_json())
    assert told["first_broken"] == found.first_broken
    assert told["broken_at"][0][2] == found.broken_at[0][2]
    assert "not finite by then" in str(found)


def test_a_sample_without_a_finite_gradient_goes_on_in_random_directions() -> None:
    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

        def inverse(self, y: Tensor) -> Tensor:
            # The slope of a root at 0 is infinite, and 0 times that is NaN.
            return y + 0.1 + (0 * y).sqrt()

    found = attack_inverse(Blind(), data(2, 3), SHORT)
    assert found.blind == 2 * 2 * 5
    assert found.first_broken is None
    assert float((found.errors[:, 0] - 0.1 * math.sqrt(3)).abs().max()) < 1e-6


def test_what_a_sample_goes_through_does_not_depend_on_the_batch() -> None:
    model, x = WronglyInverted(0.3, 0.2), data(6, 2, dtype=torch.float64)
    whole = attack_inverse(model, x, SHORT)
    part = attack_inverse(model, x[:2], SHORT)
    assert torch.allclose(whole.errors[:, :, :2], part.errors, rtol=1e-13, atol=0)
    other = ProjectedAscent(steps=4, step_size=4e-3, seeds=(1, 5))
    assert torch.equal(attack_inverse(model, x, other).errors[0], whole.errors[1])
    assert not torch.equal(whole.errors[0], whole.errors[1])


def test_of_restarts_the_worst_counts() -> None:
    model, x = WronglyInverted(0.3, 0.2), data(6, 2, dtype=torch.float64)
    once = attack_inverse(model, x, ProjectedAscent(steps=2, seeds=(0,)))
    often = attack_inverse(model, x, ProjectedAscent(steps=2, seeds=(0,), restarts=5))
    assert bool((often.errors >= once.errors).all())
    assert bool((often.errors > once.errors).any())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -1.0}, "epsilon: expected a finite number"),
        ({"step_size": math.inf}, "step_size: expected a finite number"),
        ({"seeds": ()}, "seeds: expected different integers"),
        ({"seeds": (1, 1)}, "seeds: expected different integers"),
        ({"limits": (1.0, 0.0)}, "limits: expected lower < upper"),
        ({"restarts": 0}, "restarts"),
        ({"steps": -1}, "steps"),
    ],
)
def test_settings_that_mean_nothing_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProjectedAscent(**arguments)  # type: ignore[arg-type]  # values of many kinds


def contractive(seed: int, coeff: float = 0.9) -> Chain:
    def make() -> Chain:
        residual = FeedForwardNet(3, [8], activation="lipswish", coeff=coeff)
        dense = DenseNet(3, growth=4, depth=1, coeff=coeff)
        between = Affine((3,))
        nn.init.normal_(between.log_scale)
        return Chain([Residual(residual), between, Monotone(dense)])

    return cast("Chain", seeded(seed, make))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bound_holds_on_contractive_models(seed: int) -> None:
    model = contractive(seed)
    found = attack_inverse(model, data(8, 3), SHORT)
    bound = found.bound
    assert bound is not None
    assert bound.holds
    assert bound.lipschitz == pytest.approx(model.bounds().inverse, rel=1e-5)
    assert bound.reach == math.inf
    assert bound.measured.samples == 8 * 3
    assert 0 < bound.ratio.largest < 1
    assert bound.bounds.largest < 1e-2
    assert bound.solver_residual is not None
    # Other batches round otherwise.
    assert float(found.errors.max()) / 3 < bound.measured.largest < 3 * float(found.errors.max())


def test_the_constant_of_the_other_direction_is_found_out() -> None:
    """The transform shrinks, so that its constant is no bound of the inverse."""
    chain = contractive(0)
    with torch.no_grad():
        for layer in chain.modules():
            if isinstance(layer, Affine):
                layer.log_scale.fill_(-6.0)
    right = inverse_error_bound(chain, data(8, 3))
    wrong = inverse_error_bound(chain, data(8, 3), lipschitz=chain.bounds().transform)
    assert right.holds
    assert not wrong.holds
    assert wrong.beyond == 8
    assert wrong.ratio.largest > 1
    assert "EXCEEDED by 8 samples" in str(wrong)


def test_an_inverse_that_is_slightly_too_loose_is_measured_as_such() -> None:
    """What solves leave is in the residual, so the bound grows with their tolerance and holds."""
    model, x = contractive(1), data(8, 3)
    loose = Settings(solve=Solve(Picard(), tolerance=Tolerance(rtol=1e-3)))
    tight, wide = inverse_error_bound(model, x), inverse_error_bound(model, x, using=loose)
    assert tight.holds
    assert wide.holds
    assert wide.residual.largest > 30 * tight.residual.largest
    assert wide.measured.largest > 10 * tight.measured.largest


def test_where_nothing_holds_everywhere_the_bound_is_of_the_neighbourhood() -> None:
    def make() -> Bijection:
        layers = [AffineCoupling.dense(4, 8, UpperHalfSigmoidScale()), Permutation.reversal(4)]
        return Chain([*layers, AffineCoupling.dense(4, 8, UpperHalfSigmoidScale())])

    model = randomised(make)
    assert model.bounds().inverse == math.inf
    bound = inverse_error_bound(Flow(StandardNormal((4,)), model), data(6, 4))
    assert bound.holds
    assert bound.lipschitz < math.inf
    # As far as the way back from F(x) to F(x̂) can lead.
    assert bound.bounds.largest <= bound.reach < 0.1


def test_a_bijection_that_knows_nothing_has_an_infinite_bound() -> None:
    class Doubles(Bijection):
        def _transform(self, x: Tensor, how: object) -> tuple[Tensor, Tensor]:
            return 2.1 * x, x.new_zeros(len(x))

        def _inverse(self, y: Tensor, how: object) -> tuple[Tensor, Tensor]:
            return y / 2.1, y.new_zeros(len(y))

    bound = inverse_error_bound(Doubles(), data(6, 4))
    assert bound.lipschitz == math.inf
    assert bound.holds
    assert (bound.bounds.finite, bound.ratio.largest) == (0, 0.0)
    assert "none, nothing is proven of the inverse" in str(bound)


def test_solves_that_fail_are_errors_of_their_samples() -> None:
    block = cast("Monotone", seeded(0, lambda: Monotone(DenseNet(2, growth=4, depth=1))))
    block.solve = Solve(Picard(budget=4), tolerance=Tolerance(rtol=1e-4))
    x = torch.cat([torch.zeros(1, 2), 5 * data(7, 2)])
    found = attack_inverse(block, x, SHORT)
    assert found.first_broken is None
    assert block.solve.on_failure == "raise"
    assert float(found.clean.max()) > 1e-3


def implicit_and_unrolled(steps: int) -> tuple[Tensor, Tensor]:
    """Gradients of errors that are not small, because F(x) is displaced."""
    block = seeded(0, lambda: Residual(FeedForwardNet(3, [8], activation="lipswish", coeff=0.9)))
    model, x = block.double(), 2 * data(6, 3, dtype=torch.float64)
    away = data(6, 3, dtype=torch.float64)
    unrolled = Settings(solve=UnrolledSolve(steps=steps))
    pair = [Followed(invertible_map(model, using), away) for using in (None, unrolled)]
    implicit, other = (followed.error_and_gradient(Point(x)) for followed in pair)
    return implicit[1], other[1]


def test_the_implicit_gradient_is_the_limit_of_unrolled_ones() -> None:
    implicit, unrolled = implicit_and_unrolled(60)
    assert float(implicit.abs().max()) > 1e-3
    assert torch.allclose(implicit, unrolled, rtol=0, atol=1e-9)
    implicit, early = implicit_and_unrolled(2)
    assert float((implicit - early).abs().max()) > 1e-4


def test_gradients_of_errors_are_those_of_differences() -> None:
    model = contractive(2, coeff=0.6).double()
    x = data(4, 3, dtype=torch.float64)
    followed = Followed(invertible_map(model), 0.2 * data(4, 3, dtype=torch.float64))
    _, gradient = followed.error_and_gradient(Point(x))
    step = 1e-5
    for i in range(3):
        move = torch.zeros(3, dtype=torch.float64)
        move[i] = step
        ahead, behind = (followed.error_and_gradient(Point(x + s * move))[0] for s in (1, -1))
        assert torch.allclose((ahead - behind) / (2 * step), gradient[:, i], atol=1e-6)


def test_an_error_whose_square_overflows_has_a_gradient() -> None:
    class Explodes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

        def inverse(self, y: Tensor) -> Tensor:
            return y * 1e30

    error, gradient = Followed(invertible_map(Explodes())).error_and_gradient(Point(data(2, 3)))
    assert bool(error.isfinite().all())
    assert bool((gradient > 1e28).all())


def test_unrolled_steps_are_those_of_a_series() -> None:
    matrix = torch.tensor([[0.3, 0.5], [-0.2, 0.4]], dtype=torch.float64)
    x = data(5, 2, dtype=torch.float64).requires_grad_()
    bound = FunctionMap(lambda w: w @ matrix.T)
    series = sum(torch.linalg.matrix_power(-matrix, k) for k in range(5))
    assert isinstance(series, Tensor)
    found = UnrolledSolve(steps=4)(bound, x)
    assert torch.allclose(found.value, x @ series.T, atol=1e-14)
    (gradient,) = torch.autograd.grad(found.value.sum(), x)
    assert torch.allclose(gradient, series.sum(0).expand(5, 2), atol=1e-14)
    assert found.status.tolist() == [Status.BUDGET] * 5
    left = (x @ torch.linalg.matrix_power(-matrix, 5).T).square().mean(1).sqrt()
    assert torch.allclose(found.residual, left.detach(), rtol=1e-10)
    many = UnrolledSolve(steps=80)(bound, x)
    assert many.all_converged
    assert torch.allclose(many.value, resolvent(bound, x).value, atol=1e-9)
    with pytest.raises(ValueError, match="steps"):
        UnrolledSolve(steps=0)


def test_what_is_followed_may_be_unrolled_while_errors_are_exact() -> None:
    block = seeded(0, lambda: Residual(FeedForwardNet(3, [8], activation="lipswish", coeff=0.9)))
    few = Settings(solve=UnrolledSolve(steps=1))
    found = attack_inverse(block, data(5, 3), SHORT, followed=few)
    assert float(found.errors.max()) < 1e-5
    assert float(found.followed.min()) > 1e-3
    # The truncated inverse is what is climbed.
    assert bool((found.followed[:, -1] > found.followed[:, 0]).all())
    same = attack_inverse(block, data(5, 3), SHORT)
    assert torch.equal(same.errors, same.followed)


def test_a_nudge_is_carried_as_far_as_the_inverse_stretches() -> None:
    layer = Affine((3,))
    with torch.no_grad():
        layer.log_scale.fill_(-3.0)
    found = attack_inverse(layer, data(5, 3), ProjectedAscent(steps=2, nudge=1e-2))
    assert torch.allclose(
        found.followed, torch.full_like(found.followed, 1e-2 * math.exp(3)), rtol=1e-3
    )
    assert float(found.errors.max()) < 1e-5


def test_models_of_every_kind_are_attacked_and_left_as_they_are() -> None:
    layer = Affine((3,))
    with torch.no_grad():
        layer.log_scale.copy_(torch.tensor([0.5, -1.0, 2.0]))
    scale = layer.log_scale.detach().exp()
    foreign = transforms.AffineTransform(torch.zeros(3), scale, cache_size=1)
    named = InvertibleMap(layer.transform, layer.inverse)
    for model in (layer, Flow(StandardNormal((3,)), layer), foreign, named):
        found = attack_inverse(model, data(4, 3), SHORT)
        # What a cache returns would have no error at all.
        assert 0 < float(found.errors.max()) < 1e-6
        assert (found.bound is None) == (model is foreign or model is named)
    assert layer.log_scale.grad is None
    assert layer.log_scale.requires_grad
    known = attack_inverse(foreign, data(4, 3), SHORT, lipschitz=math.e)
    assert known.bound is not None
    assert known.bound.holds
    assert known.bound.lipschitz == math.e
    with pytest.raises(ValueError, match="expected a batch of samples"):
        attack_inverse(layer, torch.ones(0, 3))


def test_a_flow_of_zuko_is_attacked() -> None:
    zuko = pytest.importorskip("zuko")
    flow = cast("nn.Module", seeded(0, lambda: zuko.flows.NSF(4, 2, transforms=2)))
    transform = flow(torch.ones(2)).transform
    found = attack_inverse(transform, data(6, 4), SHORT)
    assert 0 < float(found.errors.max()) < 1e-4
    assert found.bound is None
    assert found.failures == ()
