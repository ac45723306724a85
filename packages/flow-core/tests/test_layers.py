"""Facts of the closed-form layers that the contract test cannot know."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.bounds import Bounds
from flow_core.combinators import Chain, Invert
from flow_core.events import per_sample_all, per_sample_sum
from flow_core.jacobian import jacobian
from flow_core.layers import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    Conv1x1,
    FreeMatrix,
    Geco,
    HouseholderMatrix,
    InverseConv2d,
    LeakyReLU,
    LearnableLeakyReLU,
    LogitTransform,
    LUMatrix,
    Normalize,
    OrthogonalMatrix,
    Permutation,
    Reshape,
    SELUTransform,
    SmoothLeakyReLU,
    SmoothTanh,
    SplitPrior,
    Squeeze,
)
from torch import Tensor


def batch(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(200, 3), (50, 3, 4, 5)])
def test_actnorm_standardises_the_first_batch(shape: tuple[int, ...]) -> None:
    x = 3 * batch(*shape) + 7
    y = ActNorm(3).double().initialize(x).transpose(0, 1).flatten(1)
    assert torch.allclose(y.mean(1), torch.zeros(3, dtype=y.dtype), atol=1e-12)
    assert torch.allclose(y.var(1), torch.ones(3, dtype=y.dtype), rtol=1e-12)


def test_actnorm_formula_and_variance_floor() -> None:
    x = torch.tensor([[0.0, 1.0], [0.2, 5.0]], dtype=torch.float64)
    layer = ActNorm(2).double()
    layer.initialize(x)
    # Unbiased variances 0.02 and 8; the first is below the floor of 0.2.
    expected = torch.tensor([-0.5 * math.log(0.2), -0.5 * math.log(8.0)], dtype=torch.float64)
    assert torch.allclose(layer.log_scale, expected, rtol=1e-14)
    assert torch.allclose(layer.bias, -x.mean(0))
    y, log_det = layer(x)
    assert torch.allclose(y, (x - x.mean(0)) * expected.exp())
    assert torch.allclose(log_det, expected.sum().expand(2))


def test_actnorm_refuses_use_before_initialization() -> None:
    layer = ActNorm(3)
    for method in (layer, layer.transform, layer.inverse, layer.inverse_and_log_det):
        with pytest.raises(RuntimeError, match=r"ActNorm\(channels=3\).*initialize\(model, x\)"):
            method(torch.zeros(2, 3))


def test_actnorm_keeps_its_parameters_on_a_second_initialize() -> None:
    layer = ActNorm(3)
    layer.initialize(batch(20, 3, dtype=torch.float32))
    before = copy.deepcopy(layer.state_dict())
    layer.initialize(5 + batch(20, 3, dtype=torch.float32, seed=1))
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


def test_actnorm_loading_sets_and_clears_the_flag() -> None:
    trained, fresh = ActNorm(3), ActNorm(3)
    empty = copy.deepcopy(fresh.state_dict())
    trained.initialize(batch(20, 3, dtype=torch.float32))
    fresh.load_state_dict(trained.state_dict())
    x = batch(4, 3, dtype=torch.float32)
    assert torch.equal(fresh.transform(x), trained.transform(x))
    fresh.load_state_dict(empty)
    with pytest.raises(RuntimeError, match="to be initialized"):
        fresh.transform(x)


def test_actnorm_sees_a_buffer_that_was_copied_into_place() -> None:
    layer = ActNorm(2)
    layer.initialized.copy_(torch.tensor(True))
    assert layer.transform(torch.zeros(1, 2)).shape == (1, 2)


def test_actnorm_survives_deepcopy_and_refreshes_only_itself() -> None:
    layer = ActNorm(2)
    twin = copy.deepcopy(layer)
    layer.initialize(batch(9, 2, dtype=torch.float32))
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin.transform(torch.ones(1, 2)), layer.transform(torch.ones(1, 2)))


@pytest.mark.parametrize("x", [torch.full((4, 2), math.nan), torch.zeros(1, 2)])
def test_actnorm_refuses_statistics_of_bad_batches(x: Tensor) -> None:
    layer = ActNorm(2)
    with pytest.raises(ValueError, match=r"^ActNorm: expected at least two finite values"):
        layer.initialize(x)
    assert not bool(layer.initialized)


RANK_SCRIPT = """
import sys
import torch
import torch.distributed as dist
from flow_core.layers import Geco
from flow_core.statistics import channel_moments, true_on_all_ranks
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
x = torch.load(f"{folder}/x.pt", weights_only=True)
moments = channel_moments(x[:7] if rank == 0 else x[7:])
agreed = [true_on_all_ranks(torch.tensor([True, value])) for value in (True, rank == 0)]
geco = Geco(1, tolerance=2.0, rate=0.1)
geco.update(torch.tensor([1.0 + 4 * rank]))
torch.save((*moments, torch.tensor(agreed), geco.weights), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_unequal_ranks_agree_with_one_process(tmp_path: Path) -> None:
    x = batch(30, 3, 2, 2) * 2 + 5
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-c", RANK_SCRIPT]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    rows = x.transpose(0, 1).flatten(1)
    for rank in range(2):
        mean, variance, agreed, weights = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(mean, rows.mean(1), rtol=1e-12)
        assert torch.allclose(variance, rows.var(1), rtol=1e-12)
        assert agreed.tolist() == [True, False]
        # Errors of 1 and 5 are together half above the tolerance of 2.
        assert torch.allclose(weights, torch.tensor([math.exp(0.05)]))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    makers: list[Callable[[], object]] = [
        lambda: StandardNormal((2,), temperature=value),
        lambda: ActNorm(2, variance_floor=value),
        lambda: ActNorm(2, log_scale_bound=value),
        lambda: Normalize([value], [value]),
        lambda: Geco(1, tolerance=value),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="expected"):
            make()


def test_scalar_events_have_a_density() -> None:
    z = torch.randn(3)
    found = StandardNormal(()).log_prob(z)
    assert torch.allclose(found, -0.5 * z.square() - 0.5 * math.log(2 * math.pi))


def test_squeeze_orders_channels_by_channel_row_column() -> None:
    x = torch.arange(2 * 4 * 4, dtype=torch.float64).view(1, 2, 4, 4)
    y = Squeeze(2).transform(x)
    for c in range(2):
        for row in range(2):
            for column in range(2):
                assert torch.equal(y[0, 4 * c + 2 * row + column], x[0, c, row::2, column::2])


@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logit_is_accurate_near_both_ends(alpha: float, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    x = torch.tensor([[1e-6, 3e-4, 0.5, 1 - 4 * eps, 1 - 2 * eps]], dtype=dtype)
    # The reference works on the distance from 1, which is exact there in any precision.
    left, right = x.double(), (1 - x).double()
    log_s = torch.log(alpha + (1 - 2 * alpha) * left)
    log_t = torch.log(alpha + (1 - 2 * alpha) * right)
    y, log_det = LogitTransform(alpha)(x)
    assert torch.allclose(y.double(), log_s - log_t, rtol=4 * eps, atol=4 * eps)
    expected = (math.log1p(-2 * alpha) - log_s - log_t).sum(1)
    assert torch.allclose(log_det.double(), expected, rtol=8 * eps)


def test_logit_at_the_ends_is_finite_with_a_positive_alpha() -> None:
    y, log_det = LogitTransform(0.05)(torch.tensor([[0.0, 1.0]]))
    assert torch.allclose(y, torch.tensor([[-math.log(19), math.log(19)]]))
    assert torch.isfinite(log_det).all()


def test_logit_inverse_log_det_does_not_overflow() -> None:
    x, log_det = LogitTransform(0.0).inverse_and_log_det(torch.tensor([[-200.0, 200.0]]))
    assert torch.isfinite(x).all()
    assert torch.allclose(log_det, torch.tensor([-400.0]))


@pytest.mark.parametrize("value", [-0.1, 1.5, 255.0, math.nan])
def test_logit_initialize_refuses_data_outside_the_unit_interval(value: float) -> None:
    with pytest.raises(ValueError, match=r"^LogitTransform: expected values in \[0, 1\]"):
        LogitTransform(0.05).initialize(torch.tensor([[0.5, value]]))


def test_logit_outside_its_domain_is_nan_not_a_wrong_likelihood() -> None:
    _, log_det = LogitTransform(0.05)(torch.tensor([[1.5], [0.5]]))
    assert torch.isnan(log_det).tolist() == [True, False]


def test_normalize_formula() -> None:
    x = batch(2, 3, 2, 2)
    mean, std = [0.1, 0.2, 0.3], [0.5, 2.0, 4.0]
    y, log_det = Normalize(mean, std).double()(x)
    for c in range(3):
        assert torch.allclose(y[:, c], (x[:, c] - mean[c]) / std[c], rtol=1e-6)
    expected = torch.tensor(-4 * math.log(4.0), dtype=torch.float64)
    assert torch.allclose(log_det, expected.expand(2), rtol=1e-6)


def test_permutation_reads_from_the_index() -> None:
    x = batch(2, 3)
    assert torch.equal(Permutation([2, 0, 1]).transform(x), x[:, [2, 0, 1]])
    assert torch.equal(Permutation.reversal(3).transform(x), x.flip(1))
    one = Permutation.random(8, torch.Generator().manual_seed(1))
    other = Permutation.random(8, torch.Generator().manual_seed(2))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.inverse(batch(2, 8)), other.inverse(batch(2, 8)))


def test_reshape_is_row_major() -> None:
    x = batch(2, 3, 4, 5)
    assert torch.equal(Reshape.flatten((3, 4, 5)).transform(x), x.flatten(1))
    assert torch.equal(Reshape((3, 4, 5), (6, 10)).transform(x), x.reshape(2, 6, 10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActNorm(0), "at least one channel"),
        (lambda: Squeeze(0), "positive factor"),
        (lambda: LogitTransform(0.5), "alpha < 0.5"),
        (lambda: Normalize([0.0], [0.0]), "positive standard deviations"),
        (lambda: Normalize([0.0], [1.0, 1.0]), "as many"),
        (lambda: Permutation([0, 2]), "every channel from 0 to 1 once"),
        (lambda: Reshape((2, 3), (5,)), "equally many values"),
        (lambda: SplitPrior(torch.nn.Identity(), log_scale_bound=0.0), "positive log_scale_bound"),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Squeeze(2), (1, 3, 5, 4), "height and width divisible by 2"),
        (Squeeze(2), (3, 4, 4), r"\(batch, any, any, any\)"),
        (Permutation([1, 0]), (1, 3), r"\(batch, 2, \.\.\.\)"),
        (Permutation([1, 0]), (2,), r"\(batch, 2, \.\.\.\)"),
        (Normalize([0.0], [1.0]), (1, 3), r"\(batch, 1\) or \(batch, 1, any, any\)"),
        (Normalize([0.0], [1.0]), (1, 1, 3), r"\(batch, 1\) or \(batch, 1, any, any\)"),
        (ActNorm(3), (3, 3, 3), r"\(batch, 3\) or \(batch, 3, any, any\)"),
        (Affine((3,)), (1, 2), r"\(batch, 3\)"),
        (Reshape((4,), (2, 2)), (1, 3), r"\(batch, 4\)"),
        (SplitPrior(torch.nn.Identity()), (1, 3), "a context"),
    ],
)
def test_wrong_shapes_are_refused(layer: Bijection, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{type(layer).__name__}: expected .*{message}"):
        layer.transform(torch.zeros(shape))


def test_an_unbatched_image_gives_no_statistics() -> None:
    layer = ActNorm(3)
    with pytest.raises(ValueError, match=r"^ActNorm: .*got \(3, 3, 3\)"):
        layer.initialize(torch.randn(3, 3, 3))
    assert not bool(layer.initialized)


def test_squeeze_inverse_refuses_channels_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"^Squeeze: expected y of channels divisible by 4"):
        Squeeze(2).inverse(torch.zeros(1, 6, 2, 2))


def scattered(layer: Bijection) -> Bijection:
    """Far from where layers start, and far from equal scales."""
    layer.double()
    if isinstance(layer, ActNorm):
        layer.initialize(batch(9, layer.bias.numel()) + 1)
    for i, p in enumerate(layer.parameters()):
        with torch.no_grad():
            p.copy_(batch(*p.shape, seed=40 + i))
    return layer


BOUNDED: list[tuple[Callable[[], Bijection], tuple[int, ...]]] = [
    (lambda: Permutation([2, 0, 1]), (3, 2)),
    (lambda: Reshape((2, 3), (6,)), (2, 3)),
    (Squeeze, (1, 2, 4)),
    (lambda: Affine((2, 3)), (2, 3)),
    (lambda: Affine(()), ()),
    (lambda: ActNorm(3), (3, 2, 1)),
    (lambda: ActNorm(3, log_scale_bound=0.4), (3,)),
    (lambda: Normalize([0.1, -2.0], [0.5, 3.0]), (2, 2, 1)),
    (lambda: LeakyReLU(0.2), (4,)),
    (lambda: LeakyReLU(3.0), (4,)),
    (LearnableLeakyReLU, (4,)),
    (lambda: SmoothLeakyReLU(0.02), (4,)),
    (lambda: SmoothTanh(3.0, 0.4), (4,)),
    (lambda: Conv1x1(FreeMatrix(3), bias=True), (3, 1, 2)),
    (lambda: Conv1x1(LUMatrix(4)), (4,)),
    (lambda: Conv1x1(OrthogonalMatrix(3)), (3, 2, 1)),
    (lambda: Conv1x1(HouseholderMatrix(4, 3)), (4,)),
    (lambda: Invert(Affine((3,))), (3,)),
    (lambda: Chain([Affine((3,)), Permutation([2, 0, 1]), Conv1x1(3)]), (3,)),
]


@pytest.mark.parametrize(("make", "shape"), BOUNDED)
def test_bounds_are_not_exceeded(make: Callable[[], Bijection], shape: tuple[int, ...]) -> None:
    layer = scattered(make())
    # Points around the bends of activations, and in both of their tails.
    x = batch(100, *shape) * torch.logspace(-2, 2, 100).double().view(-1, *[1] * len(shape))
    values = torch.linalg.svdvals(jacobian(layer, x))
    bounds = layer.bounds()
    assert float(values.max()) <= bounds.transform * (1 + 1e-12)
    assert 1 / float(values.min()) <= bounds.inverse * (1 + 1e-12)
    back = torch.linalg.svdvals(jacobian(layer, layer.transform(x).detach(), direction="inverse"))
    assert float(back.max()) <= bounds.inverse * (1 + 1e-8)


@pytest.mark.parametrize(("make", "shape"), BOUNDED[:-1])
def test_bounds_are_tight(make: Callable[[], Bijection], shape: tuple[int, ...]) -> None:
    layer = scattered(make())
    grid = torch.linspace(-60, 60, 24001, dtype=torch.float64)
    elementwise = not list(layer.buffers()) and len(shape) == 1 and not list(layer.parameters())
    x = grid.view(-1, 1) if elementwise else batch(50, *shape)
    values = torch.linalg.svdvals(jacobian(layer, x))
    bounds = layer.bounds()
    assert math.isclose(float(values.max()), bounds.transform, rel_tol=1e-6)
    assert math.isclose(1 / float(values.min()), bounds.inverse, rel_tol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_the_inverse_logit_and_selu_have_a_bound_on_one_side(alpha: float) -> None:
    y = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    logit = LogitTransform(alpha)
    slope = float(jacobian(logit, y, direction="inverse").max())
    assert math.isclose(slope, logit.bounds().inverse, rel_tol=1e-12)
    slopes = jacobian(SELUTransform(), y - 1e-9)
    assert math.isclose(float(slopes.max()), SELUTransform().bounds().transform, rel_tol=1e-8)
    assert logit.bounds().transform == SELUTransform().bounds().inverse == math.inf


def test_a_singular_matrix_has_no_bound_of_its_inverse() -> None:
    layer = Conv1x1(3)
    torch.nn.init.ones_(layer.get_parameter("matrix.weight"))
    assert layer.bounds().inverse == math.inf
    assert layer.bounds().transform == pytest.approx(3.0)


def test_where_no_bound_is_known_none_is_claimed() -> None:
    # Of samples of any shape, and of a recursion that grows from pixel to pixel.
    assert AdditiveCoupling(torch.nn.Linear(1, 1)).bounds() == Bounds()
    growing = InverseConv2d(2)
    torch.nn.init.ones_(growing.weight)
    assert growing.bounds().transform == float("inf")


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3), (0,), (0, 3), (4, 0)])
def test_reductions_are_of_every_sample_for_itself(shape: tuple[int, ...]) -> None:
    values = batch(*shape)
    sums, conditions = per_sample_sum(values), per_sample_all(values > -1)
    assert sums.shape == conditions.shape == shape[:1]
    for i, one in enumerate(values):
        assert torch.allclose(sums[i], one.sum())
        assert bool(conditions[i]) == bool((one > -1).all())


def test_layers_look_at_data_only_where_they_initialize() -> None:
    outside = torch.tensor([[1.5]])
    assert bool(torch.isnan(LogitTransform(0.05).transform(outside)).all())
    y = LogitTransform(0.05).inverse(torch.tensor([[40.0]]))
    assert float(y) > 1.0


def test_statistics_under_autocast_are_those_of_full_precision() -> None:
    x = 3 * batch(64, 2, dtype=torch.float32) + 100
    plain, rounded = ActNorm(2), ActNorm(2)
    plain.initialize(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded.initialize(x)
    assert torch.equal(plain.log_scale, rounded.log_scale)
    assert rounded.log_scale.dtype == torch.float32
