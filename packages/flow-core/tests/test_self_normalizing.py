"""Self-normalizing layers: gradients without determinants, and what is said about them."""

import inspect
import math
from collections.abc import Callable
from typing import TypeVar, cast

import pytest
import torch
from flow_core.base import StandardNormal
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
    approximate_inverses,
)
from flow_core.layers.self_normalizing.layers import tap_counts, transposed
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from torch.utils._python_dispatch import TorchDispatchMode

SelfNorm = TypeVar("SelfNorm", SelfNormConv2d, SelfNormLinear)


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
    with approximate_inverses():
        approximate = layer.inverse(y)
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
        return layer.inverse(flat.view(y.shape)).flatten()

    with approximate_inverses():
        _, log_det = layer.inverse_and_log_det(y)
        matrix: Tensor = torch.func.jacrev(inverse)(y.flatten())
    expected: Tensor = torch.linalg.slogdet(matrix).logabsdet
    assert torch.allclose(log_det, expected)
    assert not torch.allclose(log_det, layer.inverse_and_log_det(y)[1])


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
    with pytest.raises(ValueError, match="vectors"):
        SelfNormLinear(3).transform(torch.zeros(2, 3, 1, 1))


def test_an_unknown_reconstruction_error_is_refused() -> None:
    flow = Flow(StandardNormal((3,)), SelfNormLinear(3))
    unchecked = inspect.unwrap(TrainingSurrogate.__init__)  # as it is without checks of types
    with pytest.raises(ValueError, match="expected reconstruction of plain"):
        unchecked(TrainingSurrogate(flow), flow, cast(Reconstruction, "symetric"))
