"""Self-normalizing layers: gradients without determinants, and what is said about them."""

import gc
import inspect
import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast, get_args

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Residual
from flow_core.combinators import Chain, Invert
from flow_core.dequantization import Dequantized, UniformDequantizer
from flow_core.distributions import Flow
from flow_core.jacobian import jacobian
from flow_core.layers import (
    ActNorm,
    Affine,
    Geco,
    LogitTransform,
    Reconstruction,
    Reshape,
    SelfNormConv2d,
    SelfNormLinear,
    TrainingSurrogate,
)
from flow_core.layers.self_normalizing.layers import tap_counts, transposed
from flow_core.maps import DenseNet
from flow_core.passes import Collector, Pass
from flow_core.record import record
from flow_core.settings import Settings, Solve
from flow_solvers import Tolerance
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

SelfNorm = TypeVar("SelfNorm", SelfNormConv2d, SelfNormLinear)
APPROXIMATE = Settings(mode="approximate_inverse")


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow_of(layer: SelfNormConv2d, shape: tuple[int, ...]) -> Flow:
    size = math.prod(shape)
    return Flow(StandardNormal((size,)), Chain([layer, Reshape.flatten(shape)]), shape).double()


def gradients(total: Tensor, *parameters: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(total, parameters, allow_unused=True))


def exact_inverse(layer: SelfNormConv2d) -> None:
    with torch.no_grad():
        inverse = torch.linalg.inv(layer.weight.flatten(1))
        layer.inverse_weight.copy_(inverse[:, :, None, None])


def jittered(layer: SelfNorm) -> SelfNorm:
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.add_(0.1 * batch(*p.shape, seed=i).to(p))
    return layer


@pytest.mark.parametrize("map_size", [(1, 1), (3, 2)])
def test_twice_the_gradient_is_exact_where_the_inverse_is(map_size: tuple[int, int]) -> None:
    layer = jittered(SelfNormConv2d(4, 1, map_size))
    flow = flow_of(layer, (4, *map_size))
    exact_inverse(layer)
    x = batch(5, 4, *map_size)
    weight, bias = layer.weight, layer.bias
    exact = torch.autograd.grad(-flow.log_prob(x).mean(), (weight, bias))
    surrogate = -TrainingSurrogate(flow)(x).surrogate.mean()
    by_weight, by_bias = torch.autograd.grad(surrogate, (weight, bias))
    assert torch.allclose(2 * by_weight, exact[0], atol=1e-10, rtol=0)
    assert torch.allclose(by_bias, exact[1], atol=1e-10, rtol=0)


def test_the_gradient_of_the_input_is_exact() -> None:
    flow = flow_of(jittered(SelfNormConv2d(2, 3, (3, 4))), (2, 3, 4))
    x = batch(2, 2, 3, 4).requires_grad_()
    (exact,) = torch.autograd.grad(flow.log_prob(x).sum(), x)
    (surrogate,) = torch.autograd.grad(TrainingSurrogate(flow)(x).surrogate.sum(), x)
    assert torch.allclose(surrogate, exact, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_gradients_are_those_of_the_paper(kernel_size: int) -> None:
    size = (4, 3)
    layer = jittered(SelfNormConv2d(2, kernel_size, size).double())
    flow = flow_of(layer, (2, *size))
    x = batch(3, 2, *size)
    y = layer.transform(x).detach().requires_grad_()
    # The loss is the sum over the batch of |y|²/2, whose gradient is y.
    loss = -TrainingSurrogate(flow)(x).surrogate.sum()
    by_weight, by_inverse = torch.autograd.grad(loss, (layer.weight, layer.inverse_weight))
    counts = tap_counts(layer.weight, size)
    plain = layer.weight.detach().clone().requires_grad_()
    moved = conv2d(x, plain, padding=kernel_size // 2)
    (data,) = torch.autograd.grad((moved * y.detach()).sum(), plain)
    inverse_term = 3 * transposed(layer.inverse_weight.detach()) * counts
    assert torch.allclose(by_weight, 0.5 * (data - inverse_term), atol=1e-10)
    pulled = conv_transpose2d(y.detach(), plain.detach(), padding=kernel_size // 2)
    other = torch.zeros_like(plain).requires_grad_()
    again = conv2d(moved.detach(), other, padding=kernel_size // 2)
    (data,) = torch.autograd.grad((again * pulled).sum(), other)
    weight_term = 3 * transposed(layer.weight.detach()) * counts
    assert torch.allclose(by_inverse, 0.5 * (-data + weight_term), atol=1e-10)


def test_a_surrogate_refuses_a_second_derivative() -> None:
    flow = flow_of(SelfNormConv2d(2, 3, (3, 3)), (2, 3, 3))
    x = batch(1, 2, 3, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="no function that has a second derivative"):
        torch.autograd.grad(TrainingSurrogate(flow)(x).surrogate.sum(), x, create_graph=True)


def test_tap_counts_are_the_products_with_ones() -> None:
    for size in ((4, 3), (2, 2), (1, 5)):
        weight = torch.zeros(1, 1, 5, 5, requires_grad=True)
        total = conv2d(torch.ones(1, 1, *size), weight, padding=2).sum()
        (counts,) = torch.autograd.grad(total, weight)
        assert torch.equal(tap_counts(weight, size), counts[0, 0])


class Devices(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as torch has it
    """Notes where tensors are made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as torch has it
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.seen.add(result.device.type)
        return result


def test_the_surrogate_is_made_on_the_device_of_the_layer() -> None:
    flow = flow_of(SelfNormConv2d(2, 3, (4, 4)), (2, 4, 4)).to("meta")
    with Devices() as devices:
        TrainingSurrogate(flow)(torch.zeros(3, 2, 4, 4, dtype=torch.float64, device="meta"))
    assert devices.seen == {"meta"}


def test_log_prob_stays_exact_before_after_and_beside_the_surrogate() -> None:
    flow = flow_of(jittered(SelfNormConv2d(2, 3, (3, 3))), (2, 3, 3))
    x = batch(2, 2, 3, 3)
    before = flow.log_prob(x)
    terms = TrainingSurrogate(flow)(x)
    assert torch.equal(flow.log_prob(x), before)
    log_det = torch.linalg.slogdet(jacobian(flow.bijection, x[:1])).logabsdet[0]
    z = flow.bijection.transform(x)
    assert torch.allclose(before[0], flow.base.log_prob(z)[0] + log_det)
    # The surrogate lacks the log-determinant: it must not be mistaken for a log-likelihood.
    assert torch.allclose(terms.surrogate, flow.base.log_prob(z), atol=1e-12)
    assert abs(float(log_det)) > 1e-3


def test_an_error_inside_leaves_exact_mode_on() -> None:
    flow = flow_of(SelfNormConv2d(2, 3, (3, 3)), (2, 3, 3))
    with pytest.raises(ValueError, match="ending in"):
        TrainingSurrogate(flow)(batch(2, 2, 3, 4))
    # In exact mode R has no part in it.
    inverse = flow.get_parameter("bijection.layers.0.inverse_weight")
    assert gradients(flow.log_prob(batch(1, 2, 3, 3)).sum(), inverse) == [None]


def test_reconstruction_errors() -> None:
    layer = jittered(SelfNormConv2d(2, 3, (4, 4)).double())
    flow = flow_of(layer, (2, 4, 4))
    x = batch(3, 2, 4, 4)
    forth = conv2d(conv2d(x, layer.weight, padding=1), layer.inverse_weight, padding=1)
    expected = (x - forth).flatten(1).square().sum(1).mean()
    z = conv2d(x, layer.weight, padding=1)
    back = conv2d(conv2d(z, layer.inverse_weight, padding=1), layer.weight, padding=1)
    other = (z - back).flatten(1).square().sum(1).mean()
    values: dict[Reconstruction, Tensor] = {
        "plain": expected,
        "inverse_only": expected,
        "symmetric": 0.5 * (expected + other),
    }
    for kind, value in values.items():
        error = TrainingSurrogate(flow, kind)(x).reconstruction
        assert error.shape == (1,)
        assert torch.allclose(error[0], value)
        by_weight, by_inverse = gradients(error.sum(), layer.weight, layer.inverse_weight)
        assert (by_weight is None) == (kind == "inverse_only")
        assert by_inverse is not None


def test_reconstruction_does_not_reach_the_layers_before() -> None:
    first = Affine((3,)).double()
    flow = Flow(StandardNormal((3,)), Chain([first, SelfNormLinear(3)])).double()
    error = TrainingSurrogate(flow)(batch(4, 3)).reconstruction.sum()
    assert gradients(error, first.shift) == [None]


def test_inverses_are_exact_unless_asked_otherwise() -> None:
    layer = jittered(SelfNormConv2d(2, 3, (4, 4)).double())
    x = batch(2, 2, 4, 4)
    y = layer.transform(x)
    assert torch.allclose(layer.inverse(y), x, atol=1e-10)
    approximate = layer.inverse(y, using=APPROXIMATE)
    centred = y - layer.bias.view(-1, 1, 1)
    assert torch.allclose(approximate, conv2d(centred, layer.inverse_weight, padding=1))
    assert torch.allclose(layer.inverse(y), x, atol=1e-10)


@pytest.mark.parametrize("vectors", [True, False])
def test_the_log_det_of_an_approximate_inverse_is_its_own(vectors: bool) -> None:
    layer: SelfNormConv2d | SelfNormLinear = (
        jittered(SelfNormLinear(6).double())
        if vectors
        else jittered(SelfNormConv2d(2, 3, (3, 4)).double())
    )
    y = batch(1, 6) if vectors else batch(1, 2, 3, 4)

    def inverse(flat: Tensor) -> Tensor:
        return layer.inverse(flat.view(y.shape), using=APPROXIMATE).flatten()

    _, log_det = layer.inverse_and_log_det(y, using=APPROXIMATE)
    matrix: Tensor = torch.func.jacrev(inverse)(y.flatten())
    expected: Tensor = torch.linalg.slogdet(matrix).logabsdet
    assert torch.allclose(log_det, expected)
    assert not torch.allclose(log_det, layer.inverse_and_log_det(y)[1])


def test_samples_by_learned_inverses_come_with_their_density() -> None:
    flow = flow_of(jittered(SelfNormConv2d(2, 3, (3, 4))), (2, 3, 4))
    torch.manual_seed(0)
    x, log_prob = flow.rsample_and_log_prob((3,), using=APPROXIMATE)
    layer = flow.bijection
    torch.manual_seed(0)
    assert torch.equal(flow.sample((3,), using=APPROXIMATE), x)
    torch.manual_seed(0)
    z = flow.base.rsample(3)
    slope = jacobian(layer, z, direction="inverse", using=APPROXIMATE)
    expected = flow.base.log_prob(z) - torch.linalg.slogdet(slope).logabsdet
    assert torch.allclose(log_prob, expected)
    assert not torch.allclose(log_prob, flow.log_prob(x))
    with pytest.raises(ValueError, match="expected settings of the exact mode for log-densities"):
        flow.log_prob(x, using=APPROXIMATE)


class Checkpointed(Bijection):
    """A bijection whose backward passes compute it again."""

    def __init__(self, inner: Bijection) -> None:
        super().__init__(inner.event_shape, inner.output_shape)
        self.inner = inner
        self.collectors: list[weakref.ref[Collector]] = []

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        if how.collector is not None:
            self.collectors.append(weakref.ref(how.collector))
        again: tuple[Tensor, Tensor] = checkpoint(self.inner, x, how=how, use_reentrant=False)
        return again

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return self._transform(y, how)


@pytest.mark.parametrize("kind", get_args(Reconstruction))
def test_checkpoints_change_nothing(kind: Reconstruction) -> None:
    layers = [jittered(SelfNormLinear(3).double()), Affine((3,)).double(), SelfNormLinear(3)]
    flow, inside = (
        Flow(StandardNormal((3,)), chain).double()
        for chain in (Chain(layers), Checkpointed(Chain(layers)))
    )
    x, parameters = batch(4, 3), list(flow.parameters())
    surrogate, segments = TrainingSurrogate(flow, kind), TrainingSurrogate(inside, kind)
    results: list[list[Tensor | None]] = []
    for call in (surrogate, segments, partial(checkpoint, surrogate, use_reentrant=False)):
        terms = call(x)
        total = terms.reconstruction.sum() - terms.surrogate.sum()
        results.append([total, *terms, *gradients(total, *parameters)])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one is None or two is None or torch.equal(one, two)
            assert (one is None) == (two is None)


def test_what_is_never_differentiated_is_freed() -> None:
    """A checkpoint holds the collector: no cycle through the graph may hold the checkpoint."""
    segment = Checkpointed(SelfNormLinear(3))
    terms = TrainingSurrogate(Flow(StandardNormal((3,)), segment))(torch.randn(2, 3))
    collector = segment.collectors[0]
    assert collector() is not None
    del terms
    gc.collect()
    assert collector() is None


def test_layers_that_are_used_twice_are_refused() -> None:
    layer = SelfNormLinear(3)
    flow = Flow(StandardNormal((3,)), Chain([layer, layer]))
    with pytest.raises(RuntimeError, match="got 2 uses of 1 layers"):
        TrainingSurrogate(flow)(torch.randn(2, 3))


def test_other_settings_reach_the_other_layers() -> None:
    net = DenseNet(3, growth=4, depth=1, coeff=0.5)
    flow = Flow(StandardNormal((3,)), Chain([SelfNormLinear(3), Invert(Residual(net))]))
    loose = Settings(solve=Solve(tolerance=Tolerance(rtol=0.5)), mode="approximate_inverse")
    with record() as report:
        terms = TrainingSurrogate(flow)(torch.randn(2, 3), using=loose)
        other = TrainingSurrogate(flow)(torch.randn(2, 3))
    quick, exact = (solution for many in report.solutions.values() for solution in many)
    assert quick.calls < exact.calls
    assert terms.reconstruction.shape == other.reconstruction.shape == (1,)


def test_without_log_dets_a_surrogate_is_the_map_itself() -> None:
    layer = jittered(SelfNormConv2d(2, 3, (3, 4)).double())
    x = batch(2, 2, 3, 4)
    using = Settings(mode="surrogate")
    assert torch.equal(layer.transform(x, using=using), layer.transform(x))
    y, log_det = layer.inverse_and_log_det(x, using=using)
    assert torch.equal(y, layer.inverse(x))
    assert torch.equal(log_det, layer.inverse_and_log_det(x)[1])


def test_training_on_the_surrogate_improves_the_exact_likelihood() -> None:
    torch.manual_seed(0)
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.6, 0.3], [0.2, 0.0, 1.5]], dtype=torch.float64)
    data = batch(400, 3) @ mixing.mT
    flow = Flow(StandardNormal((3,)), Chain([SelfNormLinear(3), SelfNormLinear(3)])).double()
    model = TrainingSurrogate(flow)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = float(flow.log_prob(data).mean().detach())
    for _ in range(300):
        optimizer.zero_grad()
        terms = model(data)
        torch.autograd.backward(terms.reconstruction.sum() - terms.surrogate.mean())
        optimizer.step()
    covariance = torch.cov(data.mT, correction=0)
    best = -1.5 * math.log(2 * math.pi) - 0.5 * float(torch.logdet(covariance)) - 1.5
    after = float(flow.log_prob(data).mean().detach())
    assert before < best - 0.1
    assert best - 0.02 < after <= best + 1e-9


def test_integer_data_are_trained_through_their_dequantization() -> None:
    layers = Chain([LogitTransform(0.05), SelfNormLinear(4)])
    model = Dequantized(Flow(StandardNormal((4,)), layers), UniformDequantizer(), 16)
    terms = TrainingSurrogate(model)(torch.randint(16, (3, 4)))
    assert terms.surrogate.shape == (3,)


def test_layers_that_are_used_backwards_are_refused() -> None:
    chain = Chain([Invert(SelfNormLinear(3)), SelfNormLinear(3)])
    with pytest.raises(RuntimeError, match="each of 2 self-normalizing layers"):
        TrainingSurrogate(Flow(StandardNormal((3,)), chain))(torch.randn(2, 3))


def test_an_empty_batch_has_no_error() -> None:
    flow = Flow(StandardNormal((3,)), SelfNormLinear(3))
    assert torch.equal(TrainingSurrogate(flow)(torch.randn(0, 3)).reconstruction, torch.zeros(1))


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="train it on log_prob"):
        TrainingSurrogate(Flow(StandardNormal((3,)), ActNorm(3)))


def test_geco_holds_errors_at_the_tolerance() -> None:
    geco = Geco(2, tolerance=0.5, rate=0.1, memory=0.5, initial=2.0)
    geco.update(torch.tensor([0.75, 0.5]))
    assert torch.allclose(geco.weights, torch.tensor([2 * math.exp(0.05), 2.0]))
    geco.update(torch.tensor([0.5, 0.5]))
    # The average is .625, still a quarter above the tolerance.
    assert torch.allclose(geco.weights[0], torch.tensor(2 * math.exp(0.075)))
    for _ in range(20):
        geco.update(torch.tensor([0.0, 0.5]))
    assert float(geco.weights[0]) < 2.0
    assert math.isclose(float(geco.weights[1]), 2.0, rel_tol=1e-6)


def test_geco_survives_wild_errors() -> None:
    geco = Geco(1, tolerance=0.1, rate=0.1)
    geco.update(torch.tensor([math.nan]))
    assert torch.equal(geco.weights, torch.ones(1))
    for error in (1e30, math.inf, math.nan, 0.0):
        geco.update(torch.tensor([error]))
    assert 1.0 < float(geco.weights[0]) < 2.0
    for _ in range(1000):
        geco.update(torch.tensor([1.0]))
    assert math.isclose(float(geco.weights[0]), 1e6, rel_tol=1e-3)
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        geco.update(torch.zeros(2))


def test_geco_is_part_of_the_state() -> None:
    one, other = Geco(1, tolerance=0.1), Geco(1, tolerance=0.1)
    one.update(torch.tensor([3.0]))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.weights, other.weights)


def test_linear_layers_begin_as_the_identity() -> None:
    x = batch(3, 5)
    assert torch.equal(SelfNormLinear(5).double().transform(x), x)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_geco_refuses_bad_settings(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Geco(1, tolerance=0.1, rate=rate)


def test_linear_layers_refuse_images() -> None:
    with pytest.raises(ValueError, match=r"^SelfNormLinear: expected x of shape \(batch, 3\), got"):
        SelfNormLinear(3).transform(torch.zeros(2, 3, 1, 1))


def test_an_unknown_reconstruction_error_is_refused() -> None:
    flow = Flow(StandardNormal((3,)), SelfNormLinear(3))
    unchecked = inspect.unwrap(TrainingSurrogate.__init__)  # as it is without checks of types
    with pytest.raises(ValueError, match="expected reconstruction of plain"):
        unchecked(TrainingSurrogate(flow), flow, cast(Reconstruction, "symetric"))
