"""The stability report of models of any library against figures that are known."""

import copy
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.blocks import Monotone
from flow_core.bounds import Bounds
from flow_core.combinators import Chain, Multiscale
from flow_core.diagnostics import (
    DenseSpectrum,
    InvertibleMap,
    LanczosSpectrum,
    StabilityPart,
    StabilityReport,
    draw_stability,
    stability_report,
)
from flow_core.distributions import Flow
from flow_core.domain import Domain
from flow_core.jacobian import jacobian
from flow_core.layers import (
    ActNorm,
    Affine,
    AffineCoupling,
    Conv1x1,
    LogitTransform,
    SigmoidScale,
    Squeeze,
)
from flow_core.maps import DenseNet
from flow_core.settings import Solve
from flow_solvers import Picard, Tolerance
from torch import Tensor, nn
from torch.distributions import transforms

REST: tuple[StabilityPart, ...] = ("lipschitz", "log-det", "bounds", "gradients")
ONLY_TRIPS: tuple[StabilityPart, ...] = ("singular values", *REST)
ONLY_BOUNDS: tuple[StabilityPart, ...] = (
    "reconstruction",
    "singular values",
    "lipschitz",
    "log-det",
    "gradients",
)
ONLY_VALUES: tuple[StabilityPart, ...] = ("reconstruction", *REST)


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def couplings(channels: int = 4, width: int = 6, pairs: int = 2) -> Chain:
    def make() -> Chain:
        chain = Chain(
            [
                layer
                for _ in range(pairs)
                for layer in (Conv1x1(channels), AffineCoupling.convolutional(channels, width))
            ]
        )
        for p in chain.parameters():
            nn.init.normal_(p, std=0.4)
        return Chain([Squeeze(2), chain])

    return cast("Chain", seeded(0, make))


class Published(nn.Module):
    """As published codes have it: a call gives y and a log-det, `inverse` gives x alone."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        return y / self.log_scale.exp()


class Duck:
    """A transform of no known library."""

    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = torch.tensor([0.5, -2.0, 4.0])

    def _call(self, x: Tensor) -> Tensor:
        return x * self.scale

    def _inverse(self, y: Tensor) -> Tensor:
        return y / self.scale


def affine() -> Affine:
    layer = Affine((3,))
    with torch.no_grad():
        layer.log_scale.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return layer


def torch_transform() -> transforms.ComposeTransform:
    scale = torch.tensor([0.5, -1.0, 2.0]).exp()
    parts: list[transforms.Transform] = [
        transforms.AffineTransform(torch.ones(3), scale, cache_size=1)
    ]
    return transforms.ComposeTransform(parts, cache_size=1)


def named_otherwise() -> InvertibleMap:
    layer = affine()
    return InvertibleMap(layer.transform, layer.inverse)


@pytest.mark.parametrize(
    "make",
    [affine, lambda: Flow(StandardNormal((3,)), affine()), Published, torch_transform],
    ids=["bijection", "flow", "module", "torch.distributions"],
)
def test_models_of_every_kind_have_the_figures_of_their_scales(
    make: Callable[[], nn.Module],
) -> None:
    report = stability_report(make(), data(5, 3))
    scales = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float32).exp().double()
    assert report.failures == ()
    (there,), (back,) = report.singular_values["transform"], report.singular_values["inverse"]
    assert (
        there.largest.lower == there.largest.upper == pytest.approx(float(scales.max()), rel=1e-6)
    )
    assert there.smallest.lower == pytest.approx(float(scales.min()), rel=1e-6)
    assert back.largest.lower == pytest.approx(1 / float(scales.min()), rel=1e-6)
    assert report.condition == pytest.approx(math.exp(3), rel=1e-6)
    assert report.lipschitz["transform"].largest == pytest.approx(float(scales.max()), rel=1e-6)
    assert report.log_det["float64"].largest < 1e-6
    # Exactly undone by none: what a cache returns would have no error at all.
    assert 0 < report.reconstruction["float32"].l2.largest < 1e-5
    assert report.reconstruction["float64"].l2.largest < 1e-13


@pytest.mark.parametrize(
    ("model", "condition"), [(Duck(), 8.0), (named_otherwise(), math.exp(3))], ids=["duck", "names"]
)
def test_what_tells_no_log_det_has_the_other_figures(
    model: Duck | InvertibleMap, condition: float
) -> None:
    report = stability_report(model, data(5, 3))
    assert report.log_det == {}
    assert report.failures == ()
    assert report.condition == pytest.approx(condition, rel=1e-6)


def test_a_flow_of_zuko() -> None:
    zuko = pytest.importorskip("zuko")
    flow = seeded(0, lambda: zuko.flows.NSF(4, 2, transforms=2, hidden_features=(8, 8)))
    transform = flow(torch.ones(2)).transform
    x = data(6, 4)
    report = stability_report(transform, x)
    assert report.failures == ()
    matrix = torch.func.jacrev(transform)(x[0]).detach().double()
    values = torch.linalg.svdvals(matrix)
    assert report.condition == pytest.approx(float(values[0] / values[-1]), rel=1e-4)
    assert report.log_det["float64"].largest < 1e-12
    assert report.reconstruction["float64"].l2.largest < 1e-12
    assert report.gradients["float64"].angle < 1e-12


def test_a_sum_of_nan_and_infinity_is_counted_apart_and_averaged_never() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            y[0, 0] = torch.nan
            y[0, 1] = torch.inf
            y[2] = -torch.inf
            return y

        def inverse(self, y: Tensor) -> Tensor:
            return y + 1.0

    report = stability_report(Breaks(), torch.zeros(4, 3), leave_out=ONLY_TRIPS)
    found = report.reconstruction["float32"]
    assert (found.images.nan_values, found.images.inf_values) == (1, 4)
    assert (found.images.nan_samples, found.images.inf_samples) == (1, 2)
    assert found.returns == found.images
    assert found.l2.mean == pytest.approx(3**0.5) == found.l2.largest
    assert (found.l2.finite, found.l2.samples) == (2, 4)
    assert found.mean_square.mean == pytest.approx(1.0)
    assert found.mean_absolute_after.mean == pytest.approx(9.0)
    assert found.mean_square_after.mean == pytest.approx(81.0)
    assert "NaN in 1 samples (1 values), infinite in 2 (4)" in str(report)


def test_pixels_are_those_of_the_scale() -> None:
    class Shifts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

        def inverse(self, y: Tensor) -> Tensor:
            return y + 0.5

    found = stability_report(
        Shifts(), torch.zeros(2, 3), pixel_scale=255.0, trips=3, leave_out=ONLY_TRIPS
    ).reconstruction["float64"]
    assert found.mean_absolute.mean == 127.5
    assert found.mean_absolute_after.mean == 3 * 127.5
    assert found.l2.mean == pytest.approx(0.5 * 3**0.5)


def test_a_solve_that_fails_is_counted_and_the_others_are_measured() -> None:
    block = cast("Monotone", seeded(0, lambda: Monotone(DenseNet(2, growth=4, depth=1))))
    block.solve = Solve(Picard(budget=4), tolerance=Tolerance(rtol=1e-4))
    x = torch.cat([torch.zeros(1, 2), 5 * data(7, 2)])
    report = stability_report(block, x, leave_out=("singular values", "gradients"))
    counts = report.reconstruction["float64"].images
    assert 0 < counts.unsolved < 8
    assert counts.nan_samples == counts.inf_samples == 0


def test_the_model_is_left_as_it_is_bit_for_bit() -> None:
    model = couplings().train()
    model[0].eval()
    torch.autograd.backward(model(data(2, 1, 4, 4))[0].sum())
    before = {
        name: (p, p.detach().clone(), p.grad.clone())
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    state = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    stability_report(model, data(2, 1, 4, 4))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert len(before) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        same, value, grad = before[name]
        assert p is same
        assert torch.equal(p, value)
        assert p.grad is not None
        assert torch.equal(p.grad, grad)


def test_networks_in_training_move_nothing_and_draw_no_numbers() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model, drawn = Chain([AffineCoupling(net)]), torch.get_rng_state()
    state = copy.deepcopy(model.state_dict())
    rest: tuple[StabilityPart, ...] = ("gradients",)
    report = stability_report(model, data(4, 2), leave_out=rest)
    assert not report.failures
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    plain = Chain([AffineCoupling(nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.5)))])
    trained, evaluated = (stability_report(plain.train(mode), data(4, 2)) for mode in (True, False))
    assert trained.bounds == evaluated.bounds


@pytest.mark.parametrize("nested", [False, True])
def test_an_inverse_of_torch_is_measured(nested: bool) -> None:
    scale = torch.tensor([2.0, 4.0])
    inverse: transforms.Transform = transforms.AffineTransform(0.0, scale, event_dim=1).inv
    if nested:
        inverse = transforms.ComposeTransform([transforms.AffineTransform(0.0, 3.0), inverse])
    report = stability_report(inverse, data(3, 2))
    assert not report.failures
    assert report.condition == pytest.approx(2.0)
    assert report.log_det["float64"].largest < 1e-12


def test_a_multiscale_model_with_a_context() -> None:
    first = Chain([Squeeze(), AffineCoupling.convolutional(4, 4, context_features=1)])
    last = AffineCoupling.convolutional(2, 4, context_features=1)
    model = Multiscale([first, last], [(4, 2, 2), (2, 2, 2)])
    report = stability_report(model, data(3, 1, 4, 4), context=data(3, 1, 2, 2))
    assert report.everywhere == Bounds()
    assert math.isfinite(report.stretch)


def test_what_lies_outside_or_is_not_finite_ends_no_report() -> None:
    report = stability_report(Chain([LogitTransform(0.05)]), 2 + data(3, 4).sigmoid())
    assert report.reconstruction["float64"].images.nan_samples == 3
    assert math.isinf(report.stretch)
    model = Chain([AffineCoupling.dense(4, 8, context_features=1)])
    assert not stability_report(model, data(3, 4), context=torch.full((3, 1), math.nan)).bounds


def test_a_function_that_holds_tensors_is_refused() -> None:
    scale = torch.full((3,), 2.0)

    def there(x: Tensor) -> Tensor:
        return x * scale

    def back(y: Tensor) -> Tensor:
        return y / scale

    with pytest.raises(TypeError, match="tensors in its closure"):
        stability_report(InvertibleMap(there, back), data(2, 3))


def test_what_is_not_invertible_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a Bijection"):
        stability_report(nn.Linear(3, 3), data(2, 3))


def test_samples_that_the_model_does_not_take_are_refused() -> None:
    unchecked = inspect.unwrap(stability_report)  # as it is without the type checks of the tests
    with pytest.raises(TypeError, match=r"floating-point samples, got torch\.int64"):
        unchecked(affine(), torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="that the model takes, got samples of 5 values"):
        stability_report(Published(), data(2, 5))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="jacobians"):
        stability_report(affine(), data(2, 3), jacobians=-1)
    with pytest.raises(ValueError, match="width between 0 and 1"):
        LanczosSpectrum(width=1.0)
    with pytest.raises(ValueError, match="batch of samples with values"):
        stability_report(affine(), data(0, 3))


def rows_one_by_one(model: Chain, x: Tensor) -> Tensor:
    """The Jacobian as published codes make it: a backward pass for every output."""
    x = x.clone().requires_grad_()
    y = model.transform(x).flatten()
    return torch.stack([torch.autograd.grad(v, x, retain_graph=True)[0].flatten() for v in y])


def test_the_condition_number_is_that_of_rows_one_by_one() -> None:
    model, x = couplings(), data(1, 1, 6, 6)
    values = torch.linalg.svdvals(rows_one_by_one(copy.deepcopy(model).double(), x.double()))
    report = stability_report(model, x, spectrum=DenseSpectrum(chunk=5))
    exact = float(values[0] / values[-1])
    assert report.condition == pytest.approx(exact, rel=1e-8)
    assert report.singular_values["inverse"][0].condition.lower == pytest.approx(exact, rel=1e-8)
    assert exact > 10
    drawn = report.singular_values["transform"][0].values
    assert drawn == pytest.approx(values.tolist(), rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_the_bracket_of_lanczos_contains_the_extreme_singular_values(seed: int) -> None:
    model, x = couplings(), data(1, 1, 16, 16)
    (exact,) = stability_report(model, x, leave_out=ONLY_VALUES).singular_values["transform"]
    spectrum = LanczosSpectrum(width=0.05, failure=1e-3, seed=seed)
    assert spectrum.steps(256) < 40
    report = stability_report(model, x, spectrum=spectrum, leave_out=ONLY_VALUES)
    (found,), (back,) = report.singular_values["transform"], report.singular_values["inverse"]
    for bracket, value in (
        (found.largest, exact.largest.lower),
        (found.smallest, exact.smallest.lower),
        (found.condition, exact.condition.lower),
        (back.largest, 1 / exact.smallest.lower),
    ):
        assert bracket.lower * (1 - 1e-9) <= value <= bracket.upper * (1 + 1e-9)
    assert found.largest.upper / found.largest.lower == pytest.approx(1.05, abs=6e-3)
    assert "probability 1e-03" in found.method


def test_too_few_steps_would_not_reach_the_extreme_singular_values() -> None:
    """So the bracket above is needed: its lower end alone is below the value."""
    spectrum = LanczosSpectrum(width=0.9, failure=0.5)
    model, x = couplings(), data(1, 1, 16, 16)
    (exact,) = stability_report(model, x, leave_out=ONLY_VALUES).singular_values["transform"]
    report = stability_report(model, x, spectrum=spectrum, leave_out=ONLY_VALUES)
    (found,) = report.singular_values["transform"]
    assert found.largest.lower < 0.999 * exact.largest.lower
    assert exact.largest.lower <= found.largest.upper


def test_fixed_points_have_brackets_too() -> None:
    block = seeded(0, lambda: Monotone(DenseNet(20, growth=6, depth=2)))
    x = data(1, 20)
    precise = LanczosSpectrum(width=0.2, failure=0.1)
    (found,) = stability_report(block, x, spectrum=precise, leave_out=ONLY_VALUES).singular_values[
        "transform"
    ]
    matrix = jacobian(copy.deepcopy(cast("Monotone", block)).double(), x.double())[0]
    values = torch.linalg.svdvals(matrix)
    assert found.largest.lower * (1 - 1e-6) <= float(values[0]) <= found.largest.upper
    assert found.smallest.lower <= float(values[-1]) <= found.smallest.upper * (1 + 1e-6)


def test_gradients_from_recomputed_inputs() -> None:
    model, x = couplings(), data(3, 1, 4, 4)
    report = stability_report(model, x, leave_out=("singular values", "lipschitz", "log-det"))
    assert report.gradients["float64"].angle < 1e-12
    assert 1e-9 < report.gradients["float32"].angle < 1e-4
    assert report.gradients["float64"].norm == pytest.approx(
        report.gradients["float32"].norm, rel=1e-4
    )


def test_gradients_of_what_does_not_invert_point_elsewhere() -> None:
    """A scale close to 0, and a large shift: float32 forgets the input."""
    coupling = AffineCoupling(nn.Linear(2, 4), SigmoidScale())
    model = Chain([Conv1x1(4), coupling, Conv1x1(4)])
    with torch.no_grad():
        nn.init.normal_(coupling.get_parameter("conditioner.weight"))
        coupling.get_parameter("conditioner.bias").copy_(torch.tensor([1e4, 1e4, -18.0, -18.0]))
    report = stability_report(model, data(8, 4))
    assert report.gradients["float32"].relative_distance > 1e-3
    assert report.gradients["float64"].relative_distance < 1e-6
    assert (
        report.reconstruction["float32"].l2.mean > 1e-4 > report.reconstruction["float64"].l2.mean
    )


def test_gradients_are_those_of_the_loss() -> None:
    layer = affine()
    report = stability_report(layer, torch.ones(2, 3), loss=lambda y: y.sum())
    # d Σ y / d s = 2·e^s and d Σ y / d t = 2.
    expected = math.sqrt(sum((2 * math.exp(s)) ** 2 for s in (0.5, -1.0, 2.0)) + 3 * 4)
    assert report.gradients["float64"].norm == pytest.approx(expected)
    layer.requires_grad_(False)
    assert stability_report(layer, torch.ones(2, 3)).gradients == {}


@pytest.fixture(scope="module")
def report() -> StabilityReport:
    block = seeded(0, lambda: Monotone(DenseNet(2, growth=4, depth=1)))
    norm = ActNorm(2)
    norm.initialize(data(8, 2))
    return stability_report(Chain([norm, cast("Monotone", block)]), data(4, 2), jacobians=2)


def test_bounds_hold_around_the_batch_or_on_a_domain() -> None:
    model, x = couplings(), data(4, 1, 4, 4)
    parts: tuple[StabilityPart, ...] = ("reconstruction", "lipschitz", "log-det", "gradients")
    report = stability_report(model, x, jacobians=4, leave_out=parts)
    names = ["layers.0", *(f"layers.1.layers.{i}" for i in range(4))]
    assert list(report.bounds) == names
    for direction, bound in (("transform", report.stretch), ("inverse", report.inverse_stretch)):
        seen = max(v.largest.lower for v in report.singular_values[direction])
        assert seen <= bound < math.inf
    assert report.stretch == math.prod(bound.transform for bound in report.bounds.values())
    assert math.isinf(report.everywhere.transform)
    wide = stability_report(model, x, domain=Domain((1, 4, 4), -9.0, 9.0), leave_out=ONLY_BOUNDS)
    assert report.stretch < wide.stretch < math.inf
    assert stability_report(model, x * torch.nan, leave_out=ONLY_BOUNDS).bounds == {}


def test_json_and_text(report: StabilityReport) -> None:
    figures = json.loads(report.to_json())
    assert (
        figures["reconstruction"]["float32"]["l2"]["mean"]
        == report.reconstruction["float32"].l2.mean
    )
    assert len(figures["singular_values"]["inverse"]) == 2
    text = str(report)
    for expected in (
        "round trip float64",
        "sample 1",
        "condition number",
        "bound layers.1",
        "angle",
    ):
        assert expected in text


def test_what_json_lacks_becomes_none() -> None:
    layer = affine()
    with torch.no_grad():
        layer.shift.fill_(float("nan"))
    report = stability_report(layer, data(2, 3))
    figures = json.loads(report.to_json())
    assert figures["reconstruction"]["float32"]["l2"]["mean"] is None
    assert figures["reconstruction"]["float32"]["returns"]["nan_samples"] == 2


def test_a_picture(report: StabilityReport, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    axes = draw_stability(report).axes
    assert [panel.has_data() for panel in axes] == 3 * [True]
    *_, panel = draw_stability(replace(report, bounds={"": Bounds(1.0, math.inf)})).axes
    assert [str(line.get_label()).endswith("(infinite)") for line in panel.lines] == [False, True]
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"flow-core\[figures\]"):
        draw_stability(report)


def test_a_picture_of_brackets() -> None:
    pytest.importorskip("matplotlib")
    found = stability_report(
        couplings(),
        data(1, 1, 16, 16),
        spectrum=LanczosSpectrum(0.3, 0.5),
        leave_out=ONLY_VALUES,
    )
    assert len(draw_stability(found).axes) == 1
