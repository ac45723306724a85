"""Samples that are not finite: never integers, counted, with the layer that broke them."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.breakage import SampleError
from flow_core.combinators import Chain, Invert
from flow_core.dequantization import Dequantized, UniformDequantizer
from flow_core.distributions import Flow
from flow_core.layers import Affine, LogitTransform, SELUTransform, SplitPrior
from flow_core.passes import Pass
from flow_core.record import record
from torch import Tensor

LEVELS = 5
# P(z ≤ −λα) of SELU's values: those that its inverse has no argument for.
OUT_OF_RANGE = float(torch.special.ndtr(torch.tensor(-SELUTransform.limit)))


def half_line(values: int = 1) -> Flow:
    """SELU in front of the base: an inverse that not all z have."""
    return Flow(StandardNormal((values,)), Chain([LogitTransform(0.05), SELUTransform()]))


def integers(flow: Flow) -> Dequantized:
    return Dequantized(flow, UniformDequantizer(), LEVELS)


def overflowing() -> Flow:
    """x = z·e^90 is beyond float32, but for z near 0."""
    layer = Affine((2,))
    torch.nn.init.constant_(layer.log_scale, -90.0)
    return Flow(StandardNormal((2,)), Chain([Affine((2,)), layer]))


def test_samples_of_no_value_are_an_error_that_names_layer_and_count() -> None:
    torch.manual_seed(0)
    model = integers(half_line())
    found = r"got (\d+) of 500 that are not because of layers.1: \1 out of its range; bound"
    with pytest.raises(SampleError, match=found):
        model.sample((500,))


def test_samples_that_overflow_are_told_apart() -> None:
    with pytest.raises(SampleError, match=r"layers.1: \d+ overflowed; bound"):
        overflowing().sample((50,), on_failure="raise")


def test_drawn_again_samples_are_integers_of_the_range_and_counted() -> None:
    torch.manual_seed(0)
    model = integers(half_line())
    with record(model) as report:
        x = model.sample((4000,), on_failure="redraw")
    assert x.shape == (4000, 1)
    assert (int(x.min()), int(x.max())) == (0, LEVELS - 1)
    # A broken draw has as many broken ones after it as it has chances: p/(1 − p) for a sample.
    expected = 4000 * OUT_OF_RANGE / (1 - OUT_OF_RANGE)
    # At 4.9 standard deviations of the count; the seed is fixed.
    deviation = math.sqrt(4000 * OUT_OF_RANGE) / (1 - OUT_OF_RANGE)
    assert abs(report.breakage.samples - expected) < 4.9 * deviation
    assert report.breakage.layers == {"layers.1": (0, report.breakage.samples)}


def test_what_is_drawn_again_follows_the_density_on_the_range() -> None:
    torch.manual_seed(0)
    flow = Flow(StandardNormal((1,)), SELUTransform())
    z = flow.bijection.transform(flow.sample((20_000,), on_failure="redraw"))
    # Mean of a normal number above −λα: φ(λα)/(1 − p).
    mean = math.exp(-0.5 * SELUTransform.limit**2) / math.sqrt(2 * math.pi) / (1 - OUT_OF_RANGE)
    assert float(z.mean()) == pytest.approx(mean, abs=4.9 / math.sqrt(20_000))
    assert float(z.min()) >= -SELUTransform.limit


def test_good_samples_are_those_without_a_check() -> None:
    model = integers(Flow(StandardNormal((2,)), LogitTransform(0.05)))
    for on_failure in ("raise", "redraw"):
        torch.manual_seed(0)
        x = model.sample((50,), on_failure=on_failure)
        torch.manual_seed(0)
        y = model.flow.sample((50,))
        assert torch.equal(x, (y * LEVELS).floor().clamp(0, LEVELS - 1).long())


def test_a_sample_is_drawn_again_with_its_own_context() -> None:
    torch.manual_seed(0)
    # z of context h is its quantile moved by h: half of those with h = 0 have no inverse.
    shifted = SplitPrior(torch.nn.Identity(), event_shape=(1,), context_shape=(2,))
    flow = Flow(StandardNormal((1,)), Chain([SELUTransform(), Affine((1,)), shifted]))
    context = torch.tensor([[-1.0, -3.0], [40.0, -3.0]])
    y = flow.sample((300,), context, on_failure="redraw")
    assert bool(torch.isfinite(y).all())
    assert float(y[:, 0].max()) < 1 < float(y[:, 1].min())


def test_a_flow_returns_them_unless_told_and_counts_where_someone_listens() -> None:
    torch.manual_seed(0)
    flow = half_line(2)
    x = flow.sample((200,))
    broken = int((~torch.isfinite(x)).any(1).sum())
    torch.manual_seed(0)
    with record(flow) as report:
        torch.testing.assert_close(flow.sample((200,)), x, equal_nan=True)
    assert broken > 0
    assert report.breakage.samples == broken
    assert str(report.breakage) == f"layers.1: {broken} out of its range"


def test_a_layer_inside_others_is_named_once() -> None:
    torch.manual_seed(0)
    inner = Chain([Invert(Invert(SELUTransform())), Affine((1,))])
    with pytest.raises(SampleError) as error:
        Flow(StandardNormal((1,)), Chain([inner])).sample((300,), on_failure="raise")
    assert "layers.0.layers.0.bijection.bijection: " in str(error.value)
    assert str(error.value).count("out of its range") == 1


def test_a_base_that_is_not_finite_is_named() -> None:
    flow = Flow(StandardNormal((2,), temperature=3e38), Affine((2,)))
    with pytest.raises(SampleError, match=r"the base distribution: \d+ overflowed; bound"):
        flow.sample((50,), on_failure="raise")


def test_a_flow_without_any_finite_sample_says_so_in_the_end() -> None:
    class Hole(Bijection):
        def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
            return x * math.nan, how.log_det(x, lambda: x.sum(1))

        def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
            return self._transform(y, how)

    flow = Flow(StandardNormal((1,)), Hole((1,)))
    with pytest.raises(SampleError, match=r"got 3 of 3 .*100 times, because of Hole: 3 out of its"):
        flow.sample((3,), on_failure="redraw")
    assert flow.sample((0,), on_failure="redraw").shape == (0, 1)


def unchecked(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As users have it, whose types nobody checks."""
    plain: Callable[..., Tensor] = inspect.unwrap(method)
    return plain


@pytest.mark.parametrize("on_failure", ["return", "zero"])
def test_integers_are_not_made_of_nothing(on_failure: Any) -> None:
    with pytest.raises(ValueError, match="on_failure of raise or redraw, got"):
        unchecked(Dequantized.sample)(integers(half_line()), (3,), on_failure=on_failure)


def test_a_misspelt_choice_is_refused() -> None:
    choice: Any = "retry"
    with pytest.raises(ValueError, match="on_failure of return, raise, redraw, got 'retry'"):
        unchecked(Flow.sample)(half_line(), (3,), on_failure=choice)


def test_a_repetition_tells_no_report_of_solves() -> None:
    flow = half_line()
    with record(flow) as report:
        flow.sample((300,))
    assert report.breakage.samples > 0
    assert not report.summary()
