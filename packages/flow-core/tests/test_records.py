"""Records of evaluations: every first derivative without another evaluation of the net."""

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import pytest
import torch
from flow_core import Settings, update_lipschitz
from flow_core.blocks import Implicit, Monotone, Residual
from flow_core.combinators import Invert
from flow_core.maps import BoundNet, DenseNet, FeedForwardNet, LipschitzMap, SandwichNet
from flow_core.maps.net_record import NetPullBack, NetRecord
from flow_logdet import Estimator, Krylov, Recompute
from flow_solvers import Gmres, Linearization, SolvedLinearization, resolvent
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

DIM = 20
NETS: dict[str, Callable[[], LipschitzMap]] = {
    "dense": lambda: DenseNet(DIM, growth=8, depth=2),
    "learned slope": lambda: DenseNet(DIM, growth=8, depth=2, activation="clipswish"),
    "sorting": lambda: DenseNet(DIM, growth=8, depth=2, activation="fullsort"),
    "entrance": lambda: DenseNet(DIM, growth=8, depth=2, entrance=6),
    "feedforward": lambda: FeedForwardNet(DIM, [14, 10], activation="lipswish"),
    "in front": lambda: FeedForwardNet(DIM, [14, 10], activation="sin", preact=True),
    "sandwich": lambda: SandwichNet(DIM, [24]),
    "images": lambda: DenseNet(2, growth=6, depth=3, map_size=(4, 3)),
    "plain images": lambda: FeedForwardNet(
        2, [6, 6], activation="elu", kernels=(3, 1, 3), map_size=(4, 3), preact=True
    ),
    "pixels": lambda: DenseNet(18, growth=8, depth=2, map_size=(1, 1)),
}


def made(name: str) -> tuple[LipschitzMap, Tensor]:
    torch.manual_seed(1)
    net = NETS[name]().double()
    shape = net.event_shape or (DIM,)
    x = torch.randn(3, *shape, dtype=torch.float64)
    return net, x


@pytest.fixture(params=NETS)
def net_and_point(request: pytest.FixtureRequest) -> tuple[LipschitzMap, Tensor]:
    return made(str(request.param))


def functional(at: Linearization) -> Tensor:
    """Something of two products."""
    t = torch.linspace(-1, 1, at.point.numel(), dtype=at.point.dtype).view_as(at.point)
    return (at.jvp(t) * t.cos()).flatten(1).sum(1)


def test_pull_backs_are_those_of_autograd(net_and_point: tuple[LipschitzMap, Tensor]) -> None:
    net, x = net_and_point
    bound = cast("BoundNet", net.bind(None))
    leaves = [t.detach().requires_grad_() for t in bound.tensors()]
    point, along, weights = x.clone().requires_grad_(), torch.randn_like(x), torch.randn(3).double()

    at = bound.with_tensors(leaves).linearize(point)
    total = (at.value * along).sum() + weights @ functional(at)
    by_point, *expected = torch.autograd.grad(total, [point, *leaves], materialize_grads=True)

    pulled = bound.with_tensors(leaves).record(x).pull_back([True for _ in leaves])
    found = pulled.functional(functional, weights) + pulled.value(along)
    torch.testing.assert_close(found, by_point, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(pulled.tensors(), expected, strict=True):
        given = torch.zeros_like(theirs) if mine is None else mine
        torch.testing.assert_close(given, theirs, rtol=1e-10, atol=1e-12)


def test_only_needed_tensors_get_gradients() -> None:
    net, x = made("entrance")
    bound = cast("BoundNet", net.bind(None))
    needed = [i % 2 == 0 for i in range(len(bound.tensors()))]
    pulled = bound.record(x).pull_back(needed)
    pulled.functional(functional, torch.ones(3).double())
    pulled.value(x)
    assert [g is not None for g in pulled.tensors()] == needed


def test_orthonormal_products_serve_their_sums() -> None:
    net, x = made("images")
    bound = cast("BoundNet", net.bind(None))
    pulled = bound.record(x).pull_back([True for _ in bound.tensors()])
    rows = torch.linalg.qr(torch.randn(3, x[0].numel(), 2, dtype=x.dtype)).Q.mT
    for k in range(2):
        pulled.linearization.vjp(rows[:, k].reshape(x.shape))
    along = (2 * rows[:, 0] - 3 * rows[:, 1]).reshape(x.shape)
    with Products() as spent:
        image = pulled.value(along)
    assert not spent.count
    torch.testing.assert_close(image, bound.linearize(x).vjp(along))
    alone = bound.record(x).pull_back([True for _ in bound.tensors()])
    alone.value(along)
    torch.testing.assert_close(pulled.tensors(), alone.tensors(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("basis", ["skew", "incomplete"])
def test_other_products_do_not_serve(basis: str) -> None:
    net, x = made("images")
    bound = cast("BoundNet", net.bind(None))
    pulled = bound.record(x).pull_back([True for _ in bound.tensors()])
    first, second = torch.randn(2, *x.shape, dtype=x.dtype)
    for vector in (first, second) if basis == "skew" else (first,):
        pulled.linearization.vjp(vector)
    image = pulled.value(first + second)
    torch.testing.assert_close(image, bound.linearize(x).vjp(first + second))


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Counts convolutions, and products of matrices with weights."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if "convolution" in str(func):
            transposed = bool(args[6]) if "backward" not in str(func) else False
            self.count[f"{func.overloadpacket.__name__}{' transposed' if transposed else ''}"] += 1
        return func(*args, **(kwargs or {}))


def gradients_of(
    block: Any, x: Tensor, estimator: Estimator, parameters: Iterable[Tensor] | None = None
) -> list[Tensor]:
    torch.manual_seed(5)
    parameters = block.parameters() if parameters is None else parameters
    x = x.clone().requires_grad_()
    y, log_det = block(x, using=Settings(estimator=estimator))
    loss = (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()).sum()
    loss = loss + (log_det * torch.arange(1, 4)).sum()
    inputs = [x, *cast("Iterable[Tensor]", parameters)]
    return list(torch.autograd.grad(loss, inputs, materialize_grads=True))


def shrunk(net: LipschitzMap) -> LipschitzMap:
    """Another net of the same kind."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    update_lipschitz(other)
    return other


@pytest.mark.parametrize("kind", ["monotone", "inverse residual", "implicit"])
def test_blocks_have_the_gradients_of_a_graph(
    net_and_point: tuple[LipschitzMap, Tensor], kind: str
) -> None:
    """A recomputed log-determinant is differentiated by autograd; probes are the same."""
    net, x = net_and_point
    block: Any = Monotone(net)
    if kind == "inverse residual":
        block = Invert(Residual(net))
    elif kind == "implicit":
        block = Implicit(shrunk(net), net)
    estimator = Krylov(steps=4, probes=2)
    found = gradients_of(block, x, estimator)
    expected = gradients_of(block, x, Recompute(estimator))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


def test_a_pass_makes_no_evaluation_twice() -> None:
    """Three layers: what ends the solve serves log-determinant, adjoint and all gradients."""
    net, x = made("images")
    block = Monotone(net).train()
    adjoint: list[int] = []
    original = Gmres.solve

    def counted(self: Gmres, operator: Any, rhs: Tensor) -> Any:
        solution = original(self, operator, rhs)
        adjoint.append(int(solution.products.max()))
        return solution

    with pytest.MonkeyPatch.context() as patch, Products() as spent:
        patch.setattr(Gmres, "solve", counted)
        y, log_det = block(x.requires_grad_(), using=Settings(estimator=Krylov(steps=3)))
        forward = Counter(spent.count)
        torch.autograd.backward(y.square().sum() + log_det.sum())
    calls = int(resolvent(net.bind(None), 2**0.5 * x.detach()).calls)
    layers = 3
    # The control variate reads three layers of few channels; the last layer is pointwise.
    assert forward["convolution"] == layers * (calls + 1)
    assert forward["convolution transposed"] == layers * 3
    backward = spent.count - forward
    assert adjoint
    # Tangents of the surrogate, its control variate; the adjoint and the slopes' cotangents.
    assert backward["convolution"] == layers * 2
    assert backward["convolution transposed"] == layers * (adjoint[0] + 1)
    # Of the tangents with their weights, of the control variate, and of all weights once.
    assert backward["convolution_backward"] == layers * 3


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Tensor]]:
    """What the layers made, of all records."""
    seen: list[weakref.ref[Tensor]] = []
    original = BoundNet.record

    def watched(self: BoundNet, w: Tensor) -> NetRecord:
        record = original(self, w)
        seen.extend(weakref.ref(t) for t in record.made)
        return record

    monkeypatch.setattr(BoundNet, "record", watched)
    return seen


def test_a_record_is_freed_by_its_backward_pass(recorded: list[weakref.ref[Tensor]]) -> None:
    """A loss that is still held holds no activations, as with graphs of torch."""
    net, x = made("images")
    y, log_det = Monotone(net)(x.requires_grad_(), using=Settings(estimator=Krylov(steps=3)))
    loss = y.square().sum() + log_det.sum()
    assert any(held() is not None for held in recorded)
    torch.autograd.backward(loss)
    assert all(held() is None for held in recorded)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.backward(loss)


def test_a_checkpoint_forgets_the_record(recorded: list[weakref.ref[Tensor]]) -> None:
    net, x = made("images")
    block, estimator = Monotone(net), Krylov(steps=3)
    expected = gradients_of(block, x, estimator)

    def around(x: Tensor, *, using: Settings) -> Any:
        outputs = checkpoint(block, x, using=using, use_reentrant=False)
        assert all(held() is None for held in recorded)
        return outputs

    found = gradients_of(around, x, estimator, block.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_second_derivative_of_a_log_det_is_refused() -> None:
    net, x = made("dense")
    block = Monotone(net)
    x.requires_grad_()
    _, log_det = block(x, using=Settings(estimator=Krylov(steps=3)))
    (first,) = torch.autograd.grad(log_det.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(first.square().sum(), x)


def test_the_solution_itself_has_second_derivatives() -> None:
    net, x = made("dense")
    bound = net.bind(None)

    def solve(x: Tensor) -> Tensor:
        return resolvent(bound, x, linearized=True).value

    assert torch.autograd.gradgradcheck(solve, (x[:1].requires_grad_(),))


def test_a_second_function_is_differentiated_too() -> None:
    net, x = made("dense")
    bound, x = net.bind(None), x.requires_grad_()
    at = resolvent(bound, x, linearized=True).linearization
    assert isinstance(at, SolvedLinearization)
    both = at.attach(functional) + 2 * at.attach(functional)
    (found,) = torch.autograd.grad(both.sum(), x)
    point = resolvent(bound, x).value
    (expected,) = torch.autograd.grad(3 * functional(bound.linearize(point)).sum(), x)
    torch.testing.assert_close(found, expected)


def test_products_at_a_solution_are_differentiable() -> None:
    net, x = made("dense")
    bound, x = net.bind(None), x.requires_grad_()
    at = resolvent(bound, x, linearized=True).linearization
    assert at is not None
    point = resolvent(bound, x).value
    for mine, theirs in (
        (at.value, x - point),
        (at.jacobian(), bound.linearize(point).jacobian()),
        (at.select(torch.tensor([1])).vjp(x[1:2]), bound.linearize(point).vjp(x)[1:2]),
    ):
        (found,) = torch.autograd.grad(mine.sin().sum(), x, retain_graph=True)
        (expected,) = torch.autograd.grad(theirs.sin().sum(), x, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_a_start_that_changes_later_changes_no_gradient() -> None:
    """A record may not look at memory of the caller: the start may be the solution."""
    net, x = made("feedforward")
    bound = net.bind(None)
    root = resolvent(bound, x).value.detach()
    start, parameters = root.clone(), list(net.parameters())
    solution = resolvent(bound, x, start=start, linearized=True)
    at = solution.linearization
    assert isinstance(at, SolvedLinearization)
    total = at.attach(functional).sum() + solution.value.sum()
    start.zero_()
    found = torch.autograd.grad(total, parameters, materialize_grads=True)
    again = resolvent(net.bind(None), x)
    at_root = net.bind(None).linearize(again.value)
    expected = torch.autograd.grad(
        functional(at_root).sum() + again.value.sum(), parameters, materialize_grads=True
    )
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_a_wrong_pull_back_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = made("images")
    expected = gradients_of(Monotone(net), x, Recompute(Krylov(steps=4)))
    original = NetPullBack.functional

    def halved(self: NetPullBack, function: Any, weights: Tensor) -> Tensor:
        return original(self, function, weights) / 2

    monkeypatch.setattr(NetPullBack, "functional", halved)
    found = gradients_of(Monotone(net), x, Krylov(steps=4))
    assert not torch.allclose(found[0], expected[0], rtol=1e-4)
