"""Flows against torch.distributions on bijections with a known density."""

import math

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Residual
from flow_core.combinators import Chain, Invert
from flow_core.distributions import Conditioned, Flow
from flow_core.layers import (
    Affine,
    AffineCoupling,
    LogitTransform,
    Reshape,
    SELUTransform,
    SplitPrior,
)
from flow_core.maps import DenseNet
from flow_core.settings import Settings
from flow_core.views import frozen
from torch import Tensor, nn


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def gaussian() -> tuple[Flow, Tensor, Tensor]:
    """A diagonal Gaussian as a flow z = x·e^s + t, with its mean and standard deviation."""
    bijection = Affine((2, 3))
    with torch.no_grad():
        bijection.log_scale.copy_(0.5 * draw(2, 3))
        bijection.shift.copy_(draw(2, 3, seed=1))
    flow = Flow(StandardNormal((2, 3)), bijection).double()
    std = (-bijection.log_scale.detach()).exp()
    return flow, -bijection.shift.detach() * std, std


def conditional() -> Flow:
    """x | h = N(μ(h), e^(2·s(h))) with a random conditioner."""
    bijection = SplitPrior.dense(4, 3, 5)
    for i, p in enumerate(bijection.parameters()):
        torch.nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(i))
    return Flow(StandardNormal((3,)), bijection).double()


@pytest.mark.parametrize("lead", [(), (0,), (5,), (4, 5)])
def test_log_prob_is_that_of_the_known_density(lead: tuple[int, ...]) -> None:
    flow, mean, std = gaussian()
    x = draw(*lead, 2, 3, seed=2)
    assert flow.log_prob(x).shape == lead
    expected = normal_log_prob(x, mean, std).sum((-2, -1))
    assert torch.allclose(flow.log_prob(x), expected, rtol=1e-12)
    assert torch.equal(flow(x), flow.log_prob(x))


def test_log_det_sign_on_a_map_that_is_not_linear() -> None:
    # z = logit(x) makes x logistic-normal.
    flow = Flow(StandardNormal((1,)), LogitTransform(0.0)).double()
    x = torch.tensor([[0.1], [0.7]], dtype=torch.float64)
    z = x.logit()
    density = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - (x * (1 - x)).log()
    assert torch.allclose(flow.log_prob(x), density[:, 0], rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (4, 5)])
def test_sample_shapes(shape: tuple[int, ...]) -> None:
    flow, _, _ = gaussian()
    assert flow.sample(shape).shape == (*shape, 2, 3)
    x, log_prob = flow.rsample_and_log_prob(shape)
    assert x.shape == (*shape, 2, 3)
    assert log_prob.shape == shape


def test_rsample_and_log_prob_agrees_with_log_prob() -> None:
    for flow, context in ((gaussian()[0], None), (conditional(), draw(6, 4))):
        x, log_prob = flow.rsample_and_log_prob((3,), context)
        assert torch.allclose(flow.log_prob(x, context), log_prob, rtol=1e-10)


def test_samples_have_the_moments_of_the_density() -> None:
    torch.manual_seed(0)
    flow, mean, std = gaussian()
    x = flow.sample((20_000,))
    # Six means at 4.9 standard errors: false alarms below 1e-5; the seed is fixed.
    error = (x.mean(0) - mean).abs() / (std / math.sqrt(20_000))
    assert float(error.max()) < 4.9
    assert torch.allclose(x.std(0), std, rtol=0.04)


def test_sample_has_no_graph_and_rsample_has_one() -> None:
    flow, _, _ = gaussian()
    assert not flow.sample((2,)).requires_grad
    assert flow.rsample((2,)).requires_grad


def test_rsample_gradient_is_that_of_the_reparametrisation() -> None:
    flow, _, _ = gaussian()
    x = flow.rsample((3,))
    parameter = next(p for name, p in flow.named_parameters() if name.endswith("shift"))
    (grad,) = torch.autograd.grad(x.sum(), parameter)
    scale = next(p for name, p in flow.named_parameters() if name.endswith("log_scale"))
    assert torch.allclose(grad, -3 * (-scale).exp())


def test_context_is_a_batch_of_distributions() -> None:
    flow, context = conditional(), draw(6, 4)
    x = draw(5, 6, 3, seed=1)
    log_prob = flow.log_prob(x, context)
    assert log_prob.shape == (5, 6)
    for i in range(5):
        for b in range(6):
            one = flow.log_prob(x[i, b : b + 1], context[b : b + 1])
            assert torch.allclose(one, log_prob[i, b : b + 1], rtol=1e-12)
    assert flow.sample((5,), context).shape == (5, 6, 3)
    assert flow.sample((), context).shape == (6, 3)


def test_samples_follow_their_own_context() -> None:
    torch.manual_seed(0)
    flow, context = conditional(), 3 * draw(2, 4)
    x = flow.sample((4000,), context)
    with torch.no_grad():
        mean, raw = flow.bijection.get_submodule("conditioner")(context).chunk(2, 1)
    scale = (4 * torch.tanh(raw / 4)).exp()
    assert float(((x.mean(0) - mean).abs() / (scale / math.sqrt(4000))).max()) < 4.9


def test_one_value_broadcasts_against_the_context() -> None:
    flow, context = conditional(), draw(6, 4)
    assert flow.log_prob(draw(3), context).shape == (6,)


def test_condition_is_a_torch_distribution() -> None:
    flow, context = conditional(), draw(6, 4)
    view = flow.condition(context)
    assert isinstance(view, torch.distributions.Distribution)
    assert (view.batch_shape, view.event_shape) == ((6,), (3,))
    x = view.rsample((5,))
    assert x.shape == (5, 6, 3)
    assert x.requires_grad
    assert not view.sample().requires_grad
    assert torch.equal(view.log_prob(x), flow.log_prob(x, context))
    x, log_prob = view.rsample_and_log_prob((2,))
    assert torch.allclose(view.log_prob(x), log_prob)
    assert "Conditioned" in repr(view)


def test_event_shape_may_differ_from_the_latent_shape() -> None:
    flow = Flow(StandardNormal((6,)), Reshape.flatten((2, 3)), event_shape=(2, 3))
    assert flow.sample((4,)).shape == (4, 2, 3)
    assert flow.log_prob(torch.zeros(4, 2, 3)).shape == (4,)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_temperature_is_a_density(temperature: float) -> None:
    base = StandardNormal((2,), temperature=temperature).double()
    z = draw(7, 2)
    std = torch.tensor(temperature, dtype=z.dtype)
    expected = normal_log_prob(z, torch.zeros_like(std), std).sum(1)
    assert torch.allclose(base.log_prob(z), expected, rtol=1e-6)
    torch.manual_seed(0)
    assert float(base.rsample(20_000).std()) == pytest.approx(temperature, rel=0.03)


def test_samples_follow_the_dtype_of_the_model_and_the_base_adds_nothing_to_the_state() -> None:
    flow, _, _ = gaussian()
    assert flow.sample().dtype == torch.float64
    assert flow.float().sample().dtype == torch.float32
    assert not [name for name in flow.state_dict() if name.startswith("base.")]


def test_bad_input_is_refused() -> None:
    flow, _, _ = gaussian()
    with pytest.raises(ValueError, match=r"ending in \(2, 3\), got \(5, 3, 2\)"):
        flow.log_prob(torch.zeros(5, 3, 2))
    with pytest.raises(ValueError, match="ending in"):
        flow.log_prob(torch.zeros(3))
    with pytest.raises(ValueError, match="as many values in x as in z"):
        Flow(StandardNormal((2,)), Affine((2,)), event_shape=(3,))
    with pytest.raises(ValueError, match="positive temperature"):
        StandardNormal((2,), temperature=0.0)


def reference(context: Tensor) -> torch.distributions.Distribution:
    """`conditional()` given a context, by torch."""
    with torch.no_grad():
        mean, raw = conditional().bijection.get_submodule("conditioner")(context).chunk(2, -1)
    normal = torch.distributions.Normal(mean, (4 * torch.tanh(raw / 4)).exp())
    return torch.distributions.Independent(normal, 1)


@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
def test_a_conditioned_flow_has_the_shapes_and_values_of_torch(batch: tuple[int, ...]) -> None:
    context = draw(*batch, 4)
    view, torchs = conditional().condition(context), reference(context)
    for one, other in (
        (view, torchs),
        (view.expand((5, *batch)), torchs.expand((5, *batch))),
        (view.expand((5, *batch)).expand((2, 5, *batch)), torchs.expand((2, 5, *batch))),
    ):
        assert (one.batch_shape, one.event_shape) == (other.batch_shape, other.event_shape)
        for shape in ((), (7,), (2, 7)):
            assert one.sample(shape).shape == one.rsample(shape).shape == other.sample(shape).shape
            x, log_prob = one.rsample_and_log_prob(shape)
            torch.testing.assert_close(log_prob, other.log_prob(x))
            torch.testing.assert_close(one.log_prob(x), other.log_prob(x))
        for lead in ((), (1,) * len(batch), (4, *other.batch_shape), other.batch_shape):
            x = draw(*lead, 3, seed=1)
            torch.testing.assert_close(one.log_prob(x), other.log_prob(x))
    with pytest.warns(FutureWarning, match="sample_n"):
        assert getattr(view, "sample_n")(5).shape == (5, *batch, 3)  # noqa: B009 (deprecated)


def test_an_empty_batch_of_distributions() -> None:
    view = conditional().condition(draw(0, 4))
    x, log_prob = view.rsample_and_log_prob((2,))
    assert (x.shape, log_prob.shape, view.log_prob(x).shape) == ((2, 0, 3), (2, 0), (2, 0))


def test_a_flow_takes_any_batch_of_contexts_too() -> None:
    flow, context = conditional(), draw(2, 3, 4)
    x = draw(5, 2, 3, 3, seed=1)
    torch.testing.assert_close(flow.log_prob(x, context), reference(context).log_prob(x))
    torch.testing.assert_close(
        flow.log_prob(x[0, 0, 0], context[0, 0]), reference(context[0, 0]).log_prob(x[0, 0, 0])
    )
    assert flow.sample((5,), context).shape == (5, 2, 3, 3)
    assert flow.sample((5,), context[0, 0]).shape == (5, 3)
    images = Flow(StandardNormal((2, 2, 2)), AffineCoupling.convolutional(2, 4, context_features=3))
    with pytest.raises(ValueError, match=r"context of shape \(..., 3, any, any\), got \(6, 3\)"):
        images.condition(torch.zeros(6, 3))


def shaped(bijection: Bijection, shape: tuple[int, ...]) -> bool:
    flow = Flow(StandardNormal(shape), bijection)
    assert bijection.context_shape is not None
    sizes = [2 if size is None else size for size in bijection.context_shape]
    one, batch = flow.condition(torch.zeros(sizes)), flow.condition(torch.zeros(2, 1, *sizes))
    return one.sample().shape == shape and batch.sample().shape == (2, 1, *shape)


def test_layers_know_the_shape_of_their_context() -> None:
    net = DenseNet(2, growth=4, context_features=4)
    image = AffineCoupling.convolutional(2, 4, context_features=3)
    dense = AffineCoupling.dense(2, 4, context_features=4)
    chain = Chain([Affine((2,)), dense, Invert(Residual(net))])
    assert chain.context_shape == (4,)
    assert shaped(chain, (2,))
    assert shaped(frozen(chain), (2,))
    assert shaped(image, (2, 2, 2))
    # Where layers do not agree, the first dimension is the batch.
    assert Chain([dense, SplitPrior.convolutional(3, 2, 4)]).context_shape is None


def test_a_context_of_unknown_shape_has_its_batch_first() -> None:
    flow = Flow(StandardNormal((3,)), SplitPrior(nn.Linear(4, 6)))
    assert flow.condition(draw(6, 4).float()).expand((5, 6)).sample((2,)).shape == (2, 5, 6, 3)


def test_a_flow_without_context_expands() -> None:
    flow, mean, std = gaussian()
    view = flow.condition().expand((5,))
    assert (view.batch_shape, view.event_shape) == ((5,), (2, 3))
    x = view.sample((4,))
    assert x.shape == (4, 5, 2, 3)
    expected = normal_log_prob(x, mean, std).sum((-2, -1))
    torch.testing.assert_close(view.log_prob(x), expected)
    assert view.log_prob(x[0, 0]).shape == (5,)
    for size in ((), (4,)):
        with pytest.raises(RuntimeError, match="expand"):
            view.expand(size)


def test_expansion_copies_nothing_and_keeps_its_settings() -> None:
    using = Settings(mode="approximate_inverse")
    context = draw(6, 4)
    view = conditional().condition(context, using=using, validate_args=False).expand((5, 6))
    assert view.context is not None
    assert view.context.data_ptr() == context.data_ptr()
    assert view.using is using
    # Unchecked, what is no number is none in the result.
    exact = conditional().condition(context, validate_args=False).expand((5, 6))
    assert bool(exact.log_prob(torch.full((3,), math.nan).double()).isnan().all())


def allowed(view: Conditioned, values: Tensor) -> list[bool]:
    # torch declares this method without types.
    found: list[bool] = view.support.check(values).tolist()  # type: ignore[no-untyped-call]
    return found


def test_values_are_checked_as_those_of_torch() -> None:
    view = Flow(StandardNormal((2,)), Chain([LogitTransform(0.05), SELUTransform()])).condition()
    beyond = 0.05 / 0.9
    inside = torch.tensor([[0.0, 1.0], [0.5, -0.9 * beyond]])
    assert bool(view.log_prob(inside).isfinite().all())
    assert view.support.event_dim == 1
    assert allowed(view, inside) == [True, True]
    for value in (1 + 1.1 * beyond, math.nan):
        with pytest.raises(ValueError, match="within the support"):
            view.log_prob(torch.tensor([0.5, value]))
        with pytest.raises(ValueError, match="event_shape"):
            view.log_prob(torch.zeros(3))
    unchecked = view.flow.condition(validate_args=False)
    assert bool(unchecked.log_prob(torch.tensor([0.5, 2.0])).isnan())
    with pytest.raises(ValueError, match=r"ending in \(2,\), got \(3,\)"):
        unchecked.log_prob(torch.zeros(3))
    half = Flow(StandardNormal((1,)), Invert(SELUTransform())).condition()
    assert allowed(half, torch.tensor([[-1.7], [-1.8]])) == [True, False]


def test_the_text_of_a_conditioned_flow_says_what_it_is() -> None:
    assert repr(conditional().condition(draw(6, 4))) == (
        "Conditioned(base: StandardNormal, bijection: SplitPrior, context: (6, 4), "
        "batch_shape: (6,), event_shape: (3,))"
    )


def test_torch_composes_it_as_any_distribution() -> None:
    context = draw(6, 4)
    both: torch.distributions.Distribution = torch.distributions.Independent(
        conditional().condition(context), 1
    )
    x = both.rsample((2,))
    expected = reference(context).log_prob(x).sum(-1)
    torch.testing.assert_close(both.log_prob(x), expected)
    exp = torch.distributions.ExpTransform()
    moved = torch.distributions.TransformedDistribution(conditional().condition(context), exp)
    y = x.exp()
    # torch declares this method without types.
    found = moved.log_prob(y)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, reference(context).log_prob(x) - x.sum(-1))


def test_what_inherits_a_view_expands_to_its_own_kind() -> None:
    class Mine(Conditioned):
        """As Pyro wants it, with methods of its own."""

    view = Mine(conditional(), draw(6, 4)).expand((5, 6))
    assert type(view) is Mine
    assert view.sample().shape == (5, 6, 3)
