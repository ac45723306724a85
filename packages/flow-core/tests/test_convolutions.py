"""Facts of the invertible convolutions that the contract test cannot know."""

import math
import re
from typing import Any, get_args

import jaxtyping
import pytest
import torch
from flow_core.bijection import Bijection
from flow_core.layers import (
    ActNorm,
    Conv1x1,
    ExactConv2d,
    ExponentialConv2d,
    HalfRangeSigmoidScale,
    HouseholderMatrix,
    InverseConv2d,
    InvertibleMatrix,
    LUMatrix,
    MaskedConv2d,
    OrthogonalMatrix,
    ScaleFunction,
    SigmoidScale,
    cinc,
    emerging,
    finc,
    macow_unit,
)
from flow_core.layers.convolutions.masked import SIDES, AffineForm, Side
from flow_core.lipschitz import lipschitz_certificate, update_lipschitz
from flow_core.record import record
from flow_kernels import Order, padded_conv2d
from torch import Tensor


def batch(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def wild(layer: InverseConv2d, scale: float = 1.0) -> InverseConv2d:
    """Taps as large as training could make them."""
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(scale * batch(*p.shape, dtype=p.dtype, seed=3))
    return layer


def dense(layer: Bijection, shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear bijection."""
    count = math.prod(shape)
    unit = torch.eye(count, dtype=torch.float64).view(count, *shape)
    return layer.transform(unit).detach().flatten(1).mT


def test_inverse_convs_start_near_the_identity() -> None:
    x = batch(4, 12, 16, 16, dtype=torch.float32)
    torch.manual_seed(0)
    z = InverseConv2d(12).transform(x).detach()
    assert 0 < float((z - x).square().mean().sqrt()) < 0.3


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("diagonal", [False, True])
def test_bounded_taps_keep_what_a_channel_takes_at_the_bound(groups: int, diagonal: bool) -> None:
    layer = InverseConv2d(4, 3, groups=groups, learn_diagonal=diagonal, tap_bound=0.7).double()
    weight, log_diagonal = wild(layer).taps()
    size = 4 // groups
    for c in range(4):
        row = weight[c].detach().clone()
        row[c % size :, -1, -1] = 0
        own = 1.0 if log_diagonal is None else math.exp(float(log_diagonal[c].detach()))
        assert math.isclose(float(row.abs().sum()) / own, 0.7, rel_tol=1e-9)


def test_small_taps_are_not_scaled() -> None:
    layer = InverseConv2d(3, tap_bound=0.9)
    with torch.no_grad():
        layer.weight.mul_(0.1)
    assert torch.equal(layer.taps().weight, layer.weight)


def test_taps_of_zeros_have_a_gradient() -> None:
    layer = InverseConv2d(2, tap_bound=0.9)
    torch.nn.init.zeros_(layer.weight)
    total = layer.transform(torch.ones(1, 2, 3, 3)).square().sum()
    (gradient,) = torch.autograd.grad(total, layer.weight)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("order", ["TL", "TR", "BL", "BR"])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_growth_never_exceeds_its_bound(order: Order, diagonal: bool, groups: int) -> None:
    layer = InverseConv2d(
        4, (3, 2), groups=groups, orders=order, learn_diagonal=diagonal, tap_bound=0.9
    )
    bound = wild(layer.double()).growth_bound()
    norm = float(dense(layer, (4, 5, 7)).abs().sum(1).max())
    assert norm <= bound < math.inf


@pytest.mark.parametrize("wild_group", [0, 1])
def test_the_bound_is_reached(wild_group: int) -> None:
    """Every value takes half of the one before and is halved itself: growth by 2·(1 + 1/2 + …)."""
    layer = InverseConv2d(32, 1, groups=2, learn_diagonal=True).double()
    torch.nn.init.zeros_(layer.weight)
    assert layer.log_diagonal is not None
    with torch.no_grad():
        group = layer.weight.view(2, 16, 16)[wild_group]
        group.diagonal(-1).fill_(-1.0)
        layer.log_diagonal.view(2, 16)[wild_group].fill_(math.log(2.0))
        layer.log_diagonal.view(2, 16)[1 - wild_group].fill_(math.log(8.0))
    norm = float(dense(layer, (32, 1, 1)).abs().sum(1).max())
    assert math.isclose(norm, 1.0 - 0.5**16, rel_tol=1e-12)
    assert math.isclose(layer.growth_bound(), 0.5 / (1 - 0.5), rel_tol=1e-9)


@pytest.mark.parametrize("channels", [12, 96])
def test_channels_cannot_make_a_bounded_layer_grow(channels: int) -> None:
    layer = InverseConv2d(channels, tap_bound=0.9)
    torch.nn.init.normal_(layer.weight)
    x = batch(2, channels, 8, 8, dtype=torch.float32)
    z = layer.transform(x).detach()
    assert math.isclose(layer.growth_bound(), 10.0, rel_tol=1e-4)
    assert float(z.abs().max()) <= 10.0 * float(x.abs().max())
    assert torch.allclose(layer.inverse(z), x, atol=1e-5)


def test_growth_is_not_certified_where_taps_are_large() -> None:
    assert wild(InverseConv2d(4)).growth_bound() == math.inf


def test_the_bound_is_what_stops_the_growth() -> None:
    x = batch(2, 4, 24, 24)
    free, bounded = InverseConv2d(4).double(), InverseConv2d(4, tap_bound=0.9).double()
    with record() as report:
        wild(free).transform(x)
        wild(bounded).transform(x)
    grown, kept = (block.growth for block in report.summary().values())
    assert grown is not None
    assert kept is not None
    assert grown > 1e6
    assert kept <= bounded.growth_bound()


def test_growth_is_the_largest_of_all_samples_and_passes() -> None:
    layer = InverseConv2d(1, 1, learn_diagonal=True)
    assert layer.log_diagonal is not None
    torch.nn.init.constant_(layer.log_diagonal, -math.log(3.0))
    model = torch.nn.ModuleDict({"inner": layer})
    with record(model) as report:
        layer.transform(torch.zeros(0, 1, 2, 2))
        layer.transform(torch.zeros(1, 1, 2, 2))
        layer.transform(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1))
    growth = report.summary()["inner"].growth
    assert growth is not None
    assert math.isclose(growth, 3.0, rel_tol=1e-6)


def test_finc_gives_every_quarter_its_own_corner() -> None:
    layer = finc(8, 2).double()
    x = batch(2, 8, 4, 5)
    inner = layer.bijection
    assert isinstance(inner, InverseConv2d)
    y = layer.transform(x)
    orders: tuple[Order, ...] = ("TL", "TR", "BL", "BR")
    quarters = zip(x.chunk(4, 1), inner.weight.chunk(4), orders, strict=True)
    parts = [padded_conv2d(part, weight, orders=order) for part, weight, order in quarters]
    assert torch.allclose(y, torch.cat(parts, 1))


def test_finc_refuses_channels_without_quarters() -> None:
    with pytest.raises(ValueError, match="four divides"):
        finc(6)


def test_cinc_convolves_in_the_direction_of_training() -> None:
    layer = cinc(3, 2)
    inner = layer.bijection
    assert isinstance(inner, InverseConv2d)
    x = batch(1, 3, 4, 4, dtype=torch.float32)
    assert torch.equal(layer.transform(x), padded_conv2d(x, inner.weight))


def test_emerging_sees_the_whole_neighbourhood() -> None:
    torch.manual_seed(0)
    matrix = dense(emerging(1, 3).double(), (1, 5, 5))
    centre = matrix[12].view(5, 5)
    assert int((centre != 0).sum()) == 25


@pytest.mark.parametrize("make", [LUMatrix, OrthogonalMatrix, HouseholderMatrix])
def test_matrices_solve_and_know_their_determinant(make: type[InvertibleMatrix]) -> None:
    torch.manual_seed(1)
    matrix = make(5).double()
    dense_matrix = matrix.dense().detach()
    expected = torch.linalg.slogdet(dense_matrix).logabsdet
    assert math.isclose(float(matrix.log_abs_det().detach()), float(expected), abs_tol=1e-12)
    columns = batch(5, 3)
    assert torch.allclose(dense_matrix @ matrix.solve(columns), columns, atol=1e-12)


def test_householder_is_the_product_of_its_reflections() -> None:
    matrix = HouseholderMatrix(4, 3).double()
    product = torch.eye(4, dtype=torch.float64)
    for v in matrix.vectors.detach():
        product = product @ (torch.eye(4, dtype=torch.float64) - 2 * torch.outer(v, v) / v.dot(v))
    assert torch.allclose(matrix.dense(), product, atol=1e-12)


def test_lu_starts_orthogonal_and_cannot_become_singular() -> None:
    matrix = LUMatrix(6)
    w = matrix.dense().detach()
    assert torch.allclose(w @ w.mT, torch.eye(6), atol=1e-5)
    for p in matrix.parameters():
        torch.nn.init.zeros_(p)
    assert float(torch.linalg.det(matrix.dense().detach()).abs()) == 1.0


def test_conv1x1_is_the_convolution() -> None:
    layer = Conv1x1(3, bias=True)
    torch.nn.init.normal_(layer.bias if layer.bias is not None else torch.empty(0))
    x = batch(2, 3, 4, 5, dtype=torch.float32)
    expected = torch.nn.functional.conv2d(x, layer.matrix.dense()[:, :, None, None], layer.bias)
    assert torch.allclose(layer.transform(x), expected, atol=1e-6)


def test_exponential_is_the_matrix_exponential_and_its_series_is_long_enough() -> None:
    layer = ExponentialConv2d(2, 3, (3, 4)).double()
    torch.nn.init.normal_(layer.conv.weight)
    update_lipschitz(layer, 200)
    kernel = layer.conv.effective()[0]
    unit = torch.eye(24, dtype=torch.float64).view(24, 2, 3, 4)
    k = torch.nn.functional.conv2d(unit, kernel, padding=1).flatten(1).mT
    assert math.isclose(float(torch.linalg.matrix_norm(k.detach(), 2)), 0.9, rel_tol=1e-6)
    exact = torch.linalg.matrix_exp(k.detach())
    assert torch.allclose(dense(layer, (2, 3, 4)), exact, atol=1e-14)
    assert layer.terms(torch.float32) < layer.terms(torch.float64) < 40


def test_an_exponential_is_right_before_its_norm_is_known() -> None:
    layer = ExponentialConv2d(2, 3, (3, 4)).double().eval()
    torch.nn.init.normal_(layer.conv.weight, std=0.3)
    x = batch(2, 2, 3, 4)
    matrix = dense(layer, (2, 3, 4))
    y, log_det = layer(x)
    assert torch.allclose(layer.inverse(y), x, atol=1e-9)
    assert torch.allclose(torch.linalg.slogdet(matrix).logabsdet, log_det.detach(), atol=1e-9)
    torch.nn.init.normal_(layer.conv.weight, std=1e3)
    layer.conv.direction.zero_()
    with pytest.raises(ValueError, match="update_lipschitz"):
        layer.transform(x)


def test_rotations_of_many_channels_invert_in_float32() -> None:
    layer = Conv1x1(OrthogonalMatrix(192))
    x = batch(2, 192, 3, 3, dtype=torch.float32)
    assert torch.allclose(layer.inverse(layer.transform(x)), x, atol=2e-5)


def test_the_exponent_is_certified_below_one() -> None:
    layer = ExponentialConv2d(2, 3, (4, 4))
    torch.nn.init.normal_(layer.conv.weight)
    update_lipschitz(layer, 200)
    (bound,) = lipschitz_certificate(layer).values()
    assert 0.89 < bound < 0.91


@pytest.mark.parametrize("side", SIDES)
def test_masked_convs_look_one_way(side: Side) -> None:
    layer = MaskedConv2d(1, 4, side=side, kernel_size=(3, 3)).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    point = batch(1, 1, 4, 4)

    def moved(x: Tensor) -> Tensor:
        return layer.transform(x)

    matrix = torch.func.jacrev(moved)(point).view(4, 4, 4, 4)
    rows = torch.arange(4)
    # Of the output at (i, j), by the input at (a, b).
    down, across = rows[:, None, None, None] - rows[:, None], rows[:, None, None] - rows
    distance = {"above": down, "below": -down, "left": across, "right": -across}[side]
    distance = distance.expand_as(matrix)
    assert not bool(matrix[distance < 0].any())
    assert not bool(matrix[distance > 3].any())
    assert bool((matrix[distance == 1] != 0).any())


@pytest.mark.parametrize("form", get_args(AffineForm))
def test_masked_convs_move_by_the_rows_above(form: AffineForm) -> None:
    layer = MaskedConv2d(1, 4, form=form, scale=SigmoidScale()).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    x = batch(3, 1, 5, 4)
    y, log_det = layer(x)
    total = torch.zeros(3, dtype=x.dtype)
    for row in range(5):
        # The two rows above, zeros beyond the image.
        above = torch.nn.functional.pad(x, (1, 1, 2, 0))[:, :, row : row + 2]
        shift, raw = layer.last(torch.nn.functional.elu(layer.first(above))).chunk(2, 1)
        scale = torch.sigmoid(raw + 2)
        old = x[:, :, row : row + 1]
        new = (old + shift) * scale if form == "shift-scale" else old * scale + shift
        torch.testing.assert_close(y[:, :, row : row + 1], new)
        total = total + scale.log().flatten(1).sum(1)
    torch.testing.assert_close(log_det, total)


def test_the_released_unit_has_two_actnorms_and_its_form() -> None:
    unit = macow_unit(2, 3, form="released", scale=SigmoidScale())
    kinds = [type(layer) for layer in unit]
    assert kinds == [ActNorm, MaskedConv2d, MaskedConv2d] * 2
    masked = [layer for layer in unit if isinstance(layer, MaskedConv2d)]
    assert [layer.side for layer in masked] == ["above", "below", "left", "right"]
    assert {layer.form for layer in masked} == {"scale-shift"}
    assert {layer.scale for layer in masked} == {SigmoidScale()}
    # Channels of any size leave the first ActNorm standardised.
    x = 1e-3 * batch(50, 2, 3, 3).float()
    unit.initialize(x)
    assert float(unit[0].transform(x).detach().std()) == pytest.approx(1.0, rel=0.01)


def test_a_unit_takes_its_sides_in_any_order() -> None:
    unit = macow_unit(1, 3, sides=("right", "above", "below"))
    assert [getattr(layer, "side", None) for layer in unit] == ["right", "above", "below"]
    assert {getattr(layer, "form", None) for layer in unit} == {"shift-scale"}


def test_words_that_masked_convs_do_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    # As for users, whose calls are not checked.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    word: Any = "published"
    with pytest.raises(ValueError, match="form: expected one of plain, released, got 'published'"):
        macow_unit(1, 3, form=word)
    with pytest.raises(ValueError, match="form: expected one of shift-scale, scale-shift, got"):
        MaskedConv2d(1, 3, form=word)
    with pytest.raises(ValueError, match=r"a side of .*'published'"):
        macow_unit(1, 3, sides=[word])


def test_the_inverse_of_a_masked_conv_is_bounded_by_default() -> None:
    torch.manual_seed(0)

    def largest(scale: ScaleFunction | None) -> float:
        """Of images whose scales are as small as can be, which s = σ(r + 2) lets come to 0."""
        layer = MaskedConv2d(1, 3, scale=scale)
        with torch.no_grad():
            layer.last.bias[1] = -100.0
        y = torch.randn(4, 1, 8, 8)
        return float(layer.inverse(y).detach().abs().max() / y.abs().max())

    assert largest(None) < 1.01 * math.exp(2)
    assert largest(HalfRangeSigmoidScale()) < 2.01
    assert not math.isfinite(largest(SigmoidScale()))


@pytest.mark.parametrize(
    ("groups", "orders"),
    [(1, "XX"), (1, ["TL", "BR"]), (4, ["TL", "BR"]), (2, ["TL", None]), (1, [])],
)
def test_wrong_orders_are_refused_at_once(
    groups: int, orders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for users, whose calls are not checked.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=f"orders among TL, TR, BL, BR, .* {groups} groups, got"):
        InverseConv2d(4, groups=groups, orders=orders)


def test_one_order_serves_all_groups() -> None:
    x = torch.randn(1, 4, 3, 3)
    layer = InverseConv2d(4, groups=2, orders=["BR"])
    again = InverseConv2d(4, groups=2, orders="BR")
    again.load_state_dict(layer.state_dict())
    assert torch.equal(layer.transform(x), again.transform(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InverseConv2d(3, groups=2), "groups divide"),
        (lambda: InverseConv2d(3, 0), "positive kernel_size"),
        (lambda: InverseConv2d(3, tap_bound=1.0), "tap_bound < 1"),
        (lambda: ExactConv2d(3, 2, (4, 4)), "odd kernel_size"),
        (lambda: MaskedConv2d(3, 4, kernel_size=(2, 2)), "odd number of columns"),
        (lambda: HouseholderMatrix(3, 0), "at least one reflection"),
        (lambda: LUMatrix(0), "at least one channel"),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Conv1x1(3), (2, 4, 2, 2), r"\(batch, 3\) or \(batch, 3, any, any\)"),
        (Conv1x1(3), (3, 3, 2), r"\(batch, 3\) or \(batch, 3, any, any\)"),
        (InverseConv2d(3), (2, 4, 2, 2), r"\(batch, 3, any, any\)"),
        (ExactConv2d(2, 3, (4, 4)), (2, 2, 3, 4), r"\(batch, 2, 4, 4\)"),
        (ExponentialConv2d(2, 3, (4, 4)), (2, 2, 3, 4), r"\(batch, 2, 4, 4\)"),
        (MaskedConv2d(2, 3), (2, 3, 4, 4), r"\(batch, 2, any, any\)"),
        (MaskedConv2d(2, 3), (2, 2, 0, 4), "at least one pixel"),
    ],
)
def test_wrong_shapes_are_refused(layer: Bijection, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^{type(layer).__name__}: .*{message}.*got {re.escape(str(shape))}"
    ):
        layer.transform(torch.zeros(shape))
