"""The report against figures that are known."""

import copy
import json
import math

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.blocks import Implicit, Monotone, Residual, inverse_residual
from flow_core.combinators import Chain, Invert, Multiscale
from flow_core.diagnostics import Diagnostics, block_bounds, diagnose, trace_layers
from flow_core.distributions import Flow
from flow_core.jacobian import jacobian
from flow_core.layers import (
    AdditiveCoupling,
    Affine,
    Conv1x1,
    LogitTransform,
    LUMatrix,
    SplitPrior,
    Squeeze,
)
from flow_core.lipschitz import LipschitzLinear, update_lipschitz
from flow_core.maps import DenseNet
from flow_core.settings import Solve
from flow_solvers import Picard, Tolerance


def dense(seed: int) -> DenseNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DenseNet(2, growth=4, depth=2, coeff=0.9)


@pytest.fixture(scope="module")
def model() -> Chain:
    return Chain(
        [
            Monotone(dense(0)),
            Implicit(dense(1), dense(2)),
            inverse_residual(dense(3)),
            Residual(dense(4)),
        ]
    ).eval()


def data() -> torch.Tensor:
    return torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def report(model: Chain) -> Diagnostics:
    return diagnose(Flow(StandardNormal((2,)), model), data(), exact_samples=5)


def test_figures(report: Diagnostics) -> None:
    assert report.samples == 40
    assert report.failures == ()
    assert 0 < report.round_trip["float64"].max_error < 1e-7
    assert report.round_trip["float64"].max_error < report.round_trip["float32"].max_error < 1e-4
    assert report.log_det is not None
    assert report.log_det.samples == 5
    assert report.log_det.max_difference < 1e-4
    assert report.log_det.exact == pytest.approx(report.log_det.reported, abs=1e-4)


def test_effort_is_that_of_each_direction(report: Diagnostics) -> None:
    forward = {name for name, block in report.transform.items() if block.solves}
    inverse = {name for name, block in report.inverse.items() if block.solves}
    assert forward == {"layers.0", "layers.1", "layers.2.bijection"}
    assert inverse == {"layers.0", "layers.1", "layers.3"}
    assert all(report.transform[name].evaluations >= 1 for name in forward)
    assert all(report.transform[name].failures == 0 for name in forward)


def test_bounds_hold_for_the_jacobians_of_each_block(model: Chain, report: Diagnostics) -> None:
    x = 3 * data()
    twin = copy.deepcopy(model).double()
    stretch = inverse_stretch = 1.0
    for layer, bound in zip(twin, report.bounds.values(), strict=True):
        block = layer.bijection if isinstance(layer, Invert) else layer
        values = torch.linalg.svdvals(jacobian(layer, x.double()))
        assert float(values.max()) <= bound.transform
        assert float(1 / values.min()) <= bound.inverse
        # The bounds say something: none is far from what was seen, nor the trivial one.
        assert 1 < bound.transform < 100
        assert all(0 < value < 1 for value in bound.maps)
        assert len(bound.maps) == (2 if isinstance(block, Implicit) else 1)
        stretch, inverse_stretch = stretch * bound.transform, inverse_stretch * bound.inverse
    assert report.stretch == pytest.approx(stretch)
    assert report.inverse_stretch == pytest.approx(inverse_stretch)


def test_formulas_of_the_bounds(model: Chain) -> None:
    monotone, implicit, inverse, residual = block_bounds(model).values()
    (g,) = monotone.maps
    assert (monotone.transform, monotone.inverse) == ((1 + g) / (1 - g), (1 + g) / (1 - g))
    g_x, g_z = implicit.maps
    assert (implicit.transform, implicit.inverse) == ((1 + g_x) / (1 - g_z), (1 + g_z) / (1 - g_x))
    (g,) = inverse.maps
    assert (inverse.transform, inverse.inverse) == (1 / (1 - g), 1 + g)
    (g,) = residual.maps
    assert (residual.transform, residual.inverse) == (1 + g, 1 / (1 - g))


def test_no_solve_is_farther_off_than_its_certified_distance(model: Chain) -> None:
    rough = Solve(Picard(), tolerance=Tolerance(rtol=1e-2, atol=1e-2))
    block = Monotone(dense(0), rough).eval()
    report = diagnose(block, data(), exact_samples=0)
    allowed = report.bounds[""].distance(report.transform[""].residual)
    assert f"at most {allowed:.1e} from the solution" in str(report)
    exact = Monotone(copy.deepcopy(block.g).double()).eval()
    x = data().double()
    with torch.no_grad():
        # y = √2·w - x, so y is off by √2 times as much as w.
        error = (block(data())[0] - exact(x)[0]).square().mean(1).sqrt().max() / math.sqrt(2)
    assert allowed / 100 < float(error) <= allowed < 0.2


def test_inverting_twice_changes_no_bound() -> None:
    block = Residual(dense(0))
    (once,) = block_bounds(block).values()
    (twice,) = block_bounds(Invert(Chain([Invert(block)]))).values()
    assert once == twice


def test_the_model_is_left_as_it_was(model: Chain) -> None:
    twin = copy.deepcopy(model).train()
    twin[1].eval()
    before = copy.deepcopy(twin.state_dict())
    modes = [m.training for m in twin.modules()]
    diagnose(twin, data(), exact_samples=1)
    assert [m.training for m in twin.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in twin.state_dict().items())
    assert all(p.dtype == torch.float32 and p.grad is None for p in twin.parameters())


@pytest.mark.parametrize("share", ["block", "map"])
def test_what_is_used_twice_counts_twice_and_is_left_as_it_was(share: str) -> None:
    torch.manual_seed(0)
    block = Residual(DenseNet(2, growth=4, depth=1, coeff=0.99, concat_bound=1.0))
    for layer in (m for m in block.modules() if isinstance(m, LipschitzLinear)):
        torch.nn.init.normal_(layer.weight, std=50.0)
    update_lipschitz(block)
    again = block if share == "block" else Residual(block.g)
    chain = Chain([block, again])
    x = 0.3 * torch.randn(500, 2)
    report = diagnose(chain, x, exact_samples=3)
    assert [p.dtype for p in chain.parameters()] == [torch.float32] * len([*block.parameters()])
    assert all(isinstance(p, torch.nn.Parameter) for p in chain.parameters())
    assert list(report.bounds) == ["layers.0", "layers.1"]
    assert report.round_trip["float64"].max_error < 1e-8
    largest = float(torch.linalg.matrix_norm(jacobian(chain, x), 2).max())
    once, twice = (bound.transform for bound in report.bounds.values())
    assert largest <= report.stretch == once * twice
    assert report.log_det is not None
    assert report.log_det.max_difference < 1e-4
    total = sum(trace.log_det for trace in trace_layers(chain, x).values())
    assert math.isclose(total, float(chain(x)[1].mean().detach()), rel_tol=1e-4)


def test_traces_name_every_use_of_a_layer() -> None:
    layer = Affine((3,))
    inner = Chain([layer])
    assert list(trace_layers(Chain([inner, inner, layer]), torch.randn(2, 3))) == [
        "layers.0.layers.0",
        "layers.1.layers.0",
        "layers.2",
    ]


def test_a_failed_solve_is_reported_and_not_raised() -> None:
    solve = Solve(solver=Picard(budget=2), tolerance=Tolerance(rtol=1e-12))
    report = diagnose(Monotone(dense(0), solve), data())
    assert any(failure.startswith("round trip float64") for failure in report.failures)
    assert "float64" not in report.round_trip
    assert "failed: round trip float64" in str(report)
    assert report.transform[""].failures > 0


def test_a_wrong_log_det_shows() -> None:
    flow = LogitTransform(0.05)
    flow.register_forward_hook(lambda _layer, _inputs, output: (output[0], -output[1]))
    check = diagnose(flow, torch.rand(6, 3)).log_det
    assert check is not None
    assert check.max_difference > 1


def test_json_and_text(report: Diagnostics) -> None:
    figures = json.loads(report.to_json())
    assert figures["round_trip"]["float32"]["max_error"] == report.round_trip["float32"].max_error
    assert figures["bounds"]["layers.1"]["maps"] == list(report.bounds["layers.1"].maps)
    text = str(report)
    assert "40 samples" in text
    assert "bound layers.2.bijection" in text
    assert "largest difference" in text


def test_what_json_lacks_becomes_none() -> None:
    layer = Affine((2,))
    with torch.no_grad():
        layer.shift.fill_(float("nan"))
    report = diagnose(layer, data(), exact_samples=0)
    assert report.log_det is None
    figures = json.loads(report.to_json())
    assert figures["round_trip"]["float32"]["max_error"] is None


def test_empty_batch_and_bad_subset() -> None:
    report = diagnose(Affine((2,)), data()[:0])
    assert report.round_trip["float32"].max_error == 0.0
    assert report.log_det is not None
    assert report.log_det.samples == 0
    with pytest.raises(ValueError, match="at least 0"):
        diagnose(Affine((2,)), data(), exact_samples=-1)


def test_traces_of_layers_add_up_and_find_the_layer_that_does_not_invert() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, 4, 4)
    lossy = AdditiveCoupling(torch.nn.Conv2d(2, 2, 1))
    torch.nn.init.constant_(lossy.get_parameter("conditioner.bias"), 1e6)
    scales = Multiscale(
        [Chain([Conv1x1(LUMatrix(4)), lossy]), Squeeze()],
        [(4, 4, 4), (8, 2, 2)],
        [SplitPrior.convolutional(2, 2, 3)],
    )
    model = Chain([scales, Affine((64,))])
    for name, p in model.named_parameters():
        if not name.endswith("conditioner.bias"):
            torch.nn.init.normal_(p, std=0.1)
    traces = trace_layers(model, x)
    coupling = "layers.0.scales.0.layers.1"
    assert list(traces) == [
        "layers.0.scales.0.layers.0",
        coupling,
        "layers.0.priors.0",
        "layers.0.scales.1",
        "layers.1",
    ]
    total = float(model(x)[1].mean().detach())
    assert math.isclose(sum(t.log_det for t in traces.values()), total, rel_tol=1e-4)
    errors = {name: t.roundtrip_error for name, t in traces.items()}
    assert errors.pop(coupling) > 1e-3
    assert traces[coupling].largest_output > 1e5


def test_traces_take_an_inverted_composition_as_one_layer() -> None:
    model = Chain([Invert(Chain([Affine((3,)), Affine((3,))])), Affine((3,))])
    assert list(trace_layers(model, torch.randn(2, 3))) == ["layers.0", "layers.1"]
    assert trace_layers(model, torch.randn(0, 3)) == {}
