"""Every map against the dense Jacobian of its own evaluation, in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from flow_core.blocks import Monotone, Residual
from flow_core.lipschitz import LipschitzLayer, LipSwish, update_lipschitz
from flow_core.maps import (
    Activated,
    BoundNet,
    DenseLinearization,
    DenseNet,
    FeedForwardNet,
    LipschitzMap,
    ResidualConditioner,
)
from flow_core.maps.effective import concatenation
from flow_core.settings import Settings
from flow_logdet import Fixed, Krylov, Recompute
from flow_solvers import BoundMap
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Case = tuple[LipschitzMap, Tensor, Tensor | None]


def _vectors(dim: int, context: int | None = None) -> tuple[Tensor, Tensor | None]:
    return 2 * torch.randn(5, dim), None if context is None else torch.randn(5, context)


def _images(channels: int, context: int | None = None) -> tuple[Tensor, Tensor | None]:
    c = None if context is None else torch.randn(3, context, 3, 4)
    return torch.randn(3, channels, 3, 4), c


def _deeply_conditioned() -> DenseNet:
    conditioner = ResidualConditioner(2, growth=8, depth=3, map_size=(3, 4), width=16, inner=32)
    return DenseNet(3, map_size=(3, 4), growth=8, conditioner=conditioner)


CASES: dict[str, Callable[[], Case]] = {
    "dense-2d": lambda: (DenseNet(2, activation="cpila"), *_vectors(2)),
    "dense-2d-clipswish": lambda: (DenseNet(2, activation="clipswish"), *_vectors(2)),
    "dense-1d-crelu": lambda: (DenseNet(1, activation="crelu", depth=4), *_vectors(1)),
    "dense-2d-context": lambda: (DenseNet(2, context_features=3), *_vectors(2, 3)),
    "dense-7d": lambda: (DenseNet(7, activation="lipswish", growth=6), *_vectors(7)),
    "dense-7d-context": lambda: (DenseNet(7, context_features=3), *_vectors(7, 3)),
    "dense-2d-fullsort": lambda: (DenseNet(2, activation="fullsort"), *_vectors(2)),
    "dense-2d-maxmin": lambda: (DenseNet(2, activation="maxmin", growth=6), *_vectors(2)),
    "dense-7d-maxmin": lambda: (DenseNet(7, activation="maxmin"), *_vectors(7)),
    "dense-image-maxmin": lambda: (
        DenseNet(3, activation="maxmin", map_size=(3, 4), growth=8),
        *_images(3),
    ),
    "dense-image": lambda: (DenseNet(3, map_size=(3, 4), growth=8), *_images(3)),
    "dense-image-context": lambda: (
        DenseNet(3, map_size=(3, 4), growth=8, context_features=2),
        *_images(3, 2),
    ),
    "plain": lambda: (FeedForwardNet(3, [10, 8], activation="sin"), *_vectors(3)),
    "plain-image": lambda: (
        FeedForwardNet(
            2, [8, 8], activation="clipswish", kernels=[3, 1, 3], map_size=(3, 4), preact=True
        ),
        *_images(2),
    ),
    "plain-image-maxmin": lambda: (
        FeedForwardNet(
            2, [8, 8], activation="maxmin", kernels=[3, 1, 3], map_size=(3, 4), preact=True
        ),
        *_images(2),
    ),
    "plain-dropout": lambda: (FeedForwardNet(5, [10, 8], dropout=0.25).eval(), *_vectors(5)),
    "dense-2d-entrance": lambda: (DenseNet(2, growth=6, entrance=3), *_vectors(2)),
    "dense-7d-entrance": lambda: (
        DenseNet(7, growth=6, entrance=3, context_features=2),
        *_vectors(7, 2),
    ),
    "dense-image-entrance": lambda: (
        DenseNet(3, map_size=(3, 4), growth=8, entrance=2),
        *_images(3),
    ),
    "dense-image-deep-context": lambda: (_deeply_conditioned(), *_images(3, 2)),
    "plain-without-bias": lambda: (
        FeedForwardNet(2, [8], activation="elu", kernels=[3, 3], map_size=(3, 4), bias=False),
        *_images(2),
    ),
    "activated": lambda: (
        Activated(FeedForwardNet(3, [10], activation="lipswish", context_features=2), "lipswish"),
        *_vectors(3, 2),
    ),
    "activated-2d": lambda: (Activated(FeedForwardNet(2, [10], bias=False), "tanh"), *_vectors(2)),
    "activated-image": lambda: (
        Activated(
            FeedForwardNet(2, [8], activation="elu", kernels=[3, 3], map_size=(3, 4), bias=False),
            "softplus",
        ),
        *_images(2),
    ),
    "plain-fullsort": lambda: (FeedForwardNet(3, [10, 8], activation="fullsort"), *_vectors(3)),
    "plain-context": lambda: (FeedForwardNet(3, [10], context_features=2), *_vectors(3, 2)),
}


class Concatenations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as torch has it
    """How long the results of torch.cat are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as torch has it
        self.lengths: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.cat:
            self.lengths.append(len(result))
        return result


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return _moved(request.param)


def _moved(name: str) -> Case:
    """A case away from the initial point."""
    torch.manual_seed(0)
    net, x, context = CASES[name]()
    net = net.double()
    for p in net.parameters():  # leave the initial point, where conditioners are zero
        torch.nn.init.normal_(p, std=0.5)
    net = net.double()
    for module in net.modules():
        update = getattr(module, "update_lipschitz", None)
        if callable(update):
            update(200)
    return net, x.double(), None if context is None else context.double()


def _jacobian(net: LipschitzMap, x: Tensor, context: Tensor | None) -> Tensor:
    rows: list[Tensor] = []
    for i in range(len(x)):
        bound = net.bind(context).select(torch.tensor([i]))

        def value(w: Tensor, bound: BoundMap = bound) -> Tensor:
            return bound(w[None])[0]

        jac: Tensor = torch.func.jacrev(value)(x[i])
        rows.append(jac.reshape(x[i].numel(), x[i].numel()).detach())
    return torch.stack(rows)


def test_linearization_is_the_jacobian(case: Case) -> None:
    net, x, context = case
    bound, jac = net.bind(context), _jacobian(*case)
    lin, n = bound.linearize(x), x[0].numel()
    t = torch.randn(2, *x.shape, dtype=x.dtype)
    flat = t.reshape(2, len(x), n)
    torch.testing.assert_close(lin.value, bound(x))
    torch.testing.assert_close(lin.jacobian(), jac)
    torch.testing.assert_close(
        lin.jvp(t).reshape(2, len(x), n), torch.einsum("bij,pbj->pbi", jac, flat)
    )
    torch.testing.assert_close(
        lin.vjp(t).reshape(2, len(x), n), torch.einsum("bij,pbi->pbj", jac, flat)
    )


@pytest.mark.parametrize(
    "name", ["dense-1d-crelu", "dense-2d", "dense-2d-context", "dense-2d-fullsort"]
)
def test_layers_are_joined_without_copies_where_no_graph_is_wanted(name: str) -> None:
    net, w, context = _moved(name)
    bound = cast(BoundNet, net.bind(context))
    expected = bound.value_and_jacobian(w)
    with torch.no_grad(), Concatenations() as concatenations:
        found = bound.value_and_jacobian(w)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert max(concatenations.lengths, default=0) <= bound.weights[1].shape[1] - w.shape[1]


def test_products_are_differentiable(case: Case) -> None:
    net, x, context = case
    bound = net.bind(context)
    tensors = [t.detach().requires_grad_() for t in bound.tensors()]
    point = x[:2].detach().requires_grad_()
    t = torch.randn_like(point)

    def product(w: Tensor, *tensors: Tensor) -> Tensor:
        lin = bound.with_tensors(tensors).select(torch.arange(2)).linearize(w)
        return lin.jvp(t) + 2 * lin.vjp(t)

    assert torch.autograd.gradcheck(product, (point, *tensors), fast_mode=True)


def test_select_negate_and_replace(case: Case) -> None:
    net, x, context = case
    bound, index = net.bind(context), torch.tensor([2, 0])
    torch.testing.assert_close(bound.select(index)(x[index]), bound(x)[index])
    torch.testing.assert_close((-bound)(x), -bound(x))
    torch.testing.assert_close(bound.with_tensors(bound.tensors())(x), bound(x))
    doubled = bound.with_tensors([2 * t for t in bound.tensors()])
    assert not torch.allclose(doubled(x), bound(x))
    lin = bound.linearize(x)
    torch.testing.assert_close(lin.select(index).jvp(x[index]), lin.jvp(x)[index])
    torch.testing.assert_close(lin.select(index).value, lin.value[index])


def test_certificate_bounds_the_jacobian(case: Case) -> None:
    net = case[0]
    assert float(torch.linalg.matrix_norm(_jacobian(*case), 2).max()) <= net.certificate()


def _first_order_and_trace(name: str) -> tuple[DenseLinearization, Tensor]:
    """J₁ as a matrix per sample, whose trace is the stated one."""
    net, x, context = _moved(name)
    lin = net.bind(context).linearize(x)
    assert isinstance(lin, DenseLinearization)
    n = x[0].numel()
    eye = torch.eye(n, dtype=x.dtype).view(n, 1, *x.shape[1:]).expand(n, *x.shape)
    part = lin.first_order()
    first = part.jvp(eye).reshape(n, len(x), n).permute(1, 2, 0)
    torch.testing.assert_close(part.trace, first.diagonal(dim1=1, dim2=2).sum(-1))
    return lin, first


@pytest.mark.parametrize("name", ["dense-7d-maxmin", "dense-image-maxmin"])
def test_first_order_part_of_sorting_nets_has_the_stated_trace(name: str) -> None:
    _first_order_and_trace(name)


@pytest.mark.parametrize("activation", ["clipswish", "maxmin", "fullsort"])
def test_first_order_part_of_one_layer_is_everything(activation: str) -> None:
    lin = (
        DenseNet(7, activation=activation, depth=1)
        .double()
        .bind()
        .linearize(_vectors(7)[0].double())
    )
    assert isinstance(lin, DenseLinearization)
    eye = torch.eye(7).double().unsqueeze(1).expand(7, 5, 7)
    torch.testing.assert_close(lin.first_order().jvp(eye), lin.jvp(eye))
    trace = lin.jacobian().diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(lin.first_order().trace, trace)


@pytest.mark.parametrize(
    "name", ["dense-7d", "dense-7d-context", "dense-image", "dense-image-context"]
)
def test_first_order_part_is_what_remains_without_products_of_slopes(name: str) -> None:
    lin, first = _first_order_and_trace(name)
    # With slopes scaled by s, J(s) = A + s B + O(s²) and J₁(s) = A + s B.
    s = 1e-6
    small = DenseLinearization(lin.bound, lin.point, lin.value, tuple(s * h for h in lin.slopes))
    zero = DenseLinearization(lin.bound, lin.point, lin.value, tuple(0 * h for h in lin.slopes))
    linear = zero.jacobian()
    slope = (small.jacobian() - linear) / s
    torch.testing.assert_close(first, linear + slope, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "build",
    [
        partial(DenseNet, 2, growth=5),
        partial(DenseNet, 7, growth=5),
        partial(FeedForwardNet, 4, [5]),
        partial(FeedForwardNet, 3, [4], preact=True),
    ],
)
def test_max_min_of_odd_widths_is_refused(build: Callable[..., LipschitzMap]) -> None:
    net = build(activation="maxmin")
    x = torch.randn(3, *cast(torch.Size, net.event_shape))
    for evaluate in (net.bind(), net.bind().linearize):
        with pytest.raises(ValueError, match=r"MaxMin: expected an even number of channels, got"):
            evaluate(x)


@pytest.mark.parametrize("make", [partial(DenseNet, 2), partial(FeedForwardNet, 2, [4, 4])])
def test_an_activation_is_copied_for_every_layer(make: Callable[..., LipschitzMap]) -> None:
    activation = LipSwish()
    activation.beta.data.fill_(0.3)
    net = make(activation=activation)
    copies = [m for m in net.modules() if isinstance(m, LipSwish)]
    assert len({id(m.beta) for m in (activation, *copies)}) == len(copies) + 1 > 2
    assert all(m.beta.item() == activation.beta.item() for m in copies)


def test_concatenation_weights_have_the_stated_norm() -> None:
    eta = concatenation(torch.randn(4, 2, dtype=torch.float64), 0.98)
    torch.testing.assert_close(eta.norm(dim=1), torch.full((4,), 0.98, dtype=torch.float64))
    start = concatenation(torch.ones(1, 2, dtype=torch.float64), 0.98)
    torch.testing.assert_close(start[0, 0].item(), 0.98 / 2**0.5)


def test_gradients_reach_every_raw_parameter(case: Case) -> None:
    net, x, context = case
    torch.autograd.backward(net.bind(context)(x).square().sum())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DenseNet(0), "channels to be at least 1"),
        (lambda: DenseNet(2, growth=15), "halve"),
        (lambda: DenseNet(2, coeff=1.0), "coeff"),
        (lambda: DenseNet(2, concat_bound=1.5), "concat_bound"),
        (lambda: FeedForwardNet(2, []), "hidden"),
        (lambda: FeedForwardNet(2, [4], kernels=[3, 3]), "together"),
        (lambda: FeedForwardNet(2, [4], kernels=[3], map_size=(4, 4)), "2 kernels"),
    ],
)
def test_bad_sizes_are_refused(build: Callable[[], LipschitzMap], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("graph", [True, False])
def test_ensembles_and_contexts_are_vectorised(graph: bool) -> None:
    torch.manual_seed(0)
    blocks = [Residual(DenseNet(2, growth=4, depth=2)) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(list[nn.Module](blocks))
    x = torch.randn(5, 2)

    def log_det(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        values: tuple[Tensor, Tensor] = torch.func.functional_call(
            blocks[0], (parameters, buffers), (x,)
        )
        return values[1]

    with torch.set_grad_enabled(graph):
        found = torch.func.vmap(log_det)(parameters, buffers)
    expected = torch.stack([block(x)[1] for block in blocks])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", ["cpila", "clipswish"])
def test_parameter_counts_of_the_paper(activation: str) -> None:
    counts = sum(p.numel() for p in DenseNet(2, activation=activation).parameters())
    assert counts == {"cpila": 564, "clipswish": 567}[activation]
    fit = DenseNet(1, growth=128, depth=4, activation="crelu")
    assert sum(p.numel() for p in fit.parameters()) == 50_186


@pytest.mark.parametrize("block", [Residual, Monotone])
def test_a_block_refuses_what_its_map_is_not_made_for(
    block: type[Residual] | type[Monotone],
) -> None:
    image = block(DenseNet(1, growth=2, depth=1, map_size=(2, 2)))
    with pytest.raises(ValueError, match=r"expected x of shape \(batch, 1, 2, 2\), got"):
        image.transform(torch.zeros(3, 1, 12, 12))
    vector = block(DenseNet(2, growth=2, depth=1, context_features=1))
    with pytest.raises(ValueError, match=r"expected y of shape \(batch, 2\), got \(2,\)"):
        vector.inverse(torch.zeros(2), context=torch.zeros(2, 1))


def test_recomputed_log_dets_serve_blocks_of_small_dimension() -> None:
    torch.manual_seed(0)
    block = Monotone(DenseNet(2, growth=4, depth=1)).double()
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    estimator = Krylov(steps=2, probe=Fixed(torch.randn(3, 5, 2, dtype=torch.float64)), probes=3)
    found: list[Tensor] = []
    for chosen in (estimator, Recompute(estimator)):
        _, log_det = block(x, using=Settings(estimator=chosen))
        found.append(torch.autograd.grad(log_det.sum(), x)[0])
    torch.testing.assert_close(found[1], found[0])


def test_the_jacobian_of_many_images_is_made_in_several_passes() -> None:
    net, x = DenseNet(3, growth=4, depth=2, map_size=(4, 4)).double(), torch.randn(50, 3, 4, 4)
    bound = net.bind()
    linearization = bound.linearize(x.double())
    with torch.no_grad(), Concatenations() as seen:
        matrices = linearization.jacobian()
    passes, whole = seen.lengths[:-1], seen.lengths[-1]
    assert passes == [20, 20, 20, 20, 8, 8]  # two layers each, of at most 1,024 samples together
    assert whole == 48
    alone = [bound.linearize(x[i : i + 1].double()).jacobian()[0] for i in range(len(x))]
    torch.testing.assert_close(matrices, torch.stack(alone).detach())


def test_a_layer_may_have_a_coefficient_of_its_own() -> None:
    net = DenseNet(2, growth=4, depth=1, coeff=0.9)
    last = cast(LipschitzLayer, net.layers[1])
    last.coeff = 0.1
    last.weight.data.mul_(100)
    update_lipschitz(net)
    jacobian = net.bind().linearize(torch.randn(50, 2)).jacobian().detach()
    assert net.certificate() < 0.1
    assert float(torch.linalg.matrix_norm(jacobian, 2).max()) <= net.certificate()


def test_dropout_leaves_channels_out_and_keeps_the_bound() -> None:
    torch.manual_seed(0)
    net = FeedForwardNet(40, [200], dropout=0.25).double()
    update_lipschitz(net, 50)
    whole = cast(LipschitzLayer, net.layers[-1]).effective()[0]
    kept = [(net.bind_weights().weights[-1] != 0).any(0) for _ in range(20)]
    shares = [float(k.double().mean()) for k in kept]
    assert sum(shares) / 20 == pytest.approx(0.75, abs=0.03)
    assert not torch.equal(kept[0], kept[1])
    left = net.bind_weights().weights[-1]
    assert bool(((left == whole) | (left == 0)).all())
    tested = net.eval().bind_weights().weights[-1]
    torch.testing.assert_close(tested, 0.75 * whole)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FeedForwardNet(2, [4], dropout=1.0), r"expected dropout in \[0, 1\), got 1.0"),
        (lambda: DenseNet(2, entrance=0), "expected entrance to be at least 1, got 0"),
        (
            lambda: ResidualConditioner(1, growth=4, depth=1, map_size=(2, 2), width=20),
            "width: expected a multiple of 16, got 20",
        ),
        (
            lambda: DenseNet(
                1,
                growth=4,
                depth=1,
                map_size=(2, 2),
                context_features=1,
                conditioner=ResidualConditioner(1, growth=4, depth=1, map_size=(2, 2)),
            ),
            "expected context_features or a conditioner, got both",
        ),
        (
            lambda: DenseNet(
                1,
                growth=6,
                depth=1,
                map_size=(2, 2),
                conditioner=ResidualConditioner(1, growth=4, depth=1, map_size=(2, 2)),
            ),
            "expected a conditioner of growth 6 and depth 1",
        ),
    ],
)
def test_what_does_not_fit_a_net_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
