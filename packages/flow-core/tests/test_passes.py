"""What a pass depends on travels with it: recomputation, threads, hooks, sharding, contexts."""

import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import unwrap
from typing import Any, cast

import pytest
import torch
from flow_core import (
    ActNorm,
    Affine,
    Bijection,
    Chain,
    Checkpointed,
    Conv1x1,
    DenseNet,
    Dequantized,
    FeedForwardNet,
    Flow,
    Implicit,
    Invert,
    MemoryPolicy,
    Monotone,
    Multiscale,
    Pass,
    Residual,
    Reversible,
    SelfNormConv2d,
    SelfNormLinear,
    Settings,
    Solve,
    SplitPrior,
    Squeeze,
    StandardNormal,
    TrainingSurrogate,
    UniformDequantizer,
    record,
    update_lipschitz,
)
from flow_core.maps.together import bound_together
from flow_logdet import Exact, Krylov, Recompute, Roulette
from flow_solvers import Anderson, Tolerance
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

PRECISE = Solve(tolerance=Tolerance(rtol=1e-13))


def moved(model: nn.Module) -> nn.Module:
    """Away from the initial point, in float64."""
    torch.manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model = model.double()
    update_lipschitz(model, 200)
    return model


def net(dim: int, **settings: Any) -> DenseNet:
    return DenseNet(dim, growth=4, depth=2, coeff=0.9, **settings)


def image_net(**settings: Any) -> DenseNet:
    return DenseNet(2, growth=4, depth=1, coeff=0.8, map_size=(3, 3), **settings)


CHAINS: dict[str, tuple[Callable[[], list[Bijection]], tuple[int, ...]]] = {
    "1-d": (lambda: [Residual(net(1)), Affine((1,)), Monotone(net(1))], (1,)),
    "2-d": (lambda: [Residual(net(2)), Affine((2,)), Monotone(net(2)), Residual(net(2))], (2,)),
    "6-d": (lambda: [Residual(net(6)), Implicit(net(6), FeedForwardNet(6, [8]))], (6,)),
    "images": (
        lambda: [Residual(image_net()), Affine((2, 3, 3)), Residual(image_net())],
        (2, 3, 3),
    ),
    "no solves": (lambda: [Residual(net(2)), Affine((2,)), Residual(net(2))], (2,)),
}
SOLVED = {"1-d", "2-d", "6-d"}
ESTIMATORS = {
    "default": None,
    "exact": Exact(),
    "krylov": Krylov(steps=3, probes=2),
    "roulette": Roulette(),
    "recompute": Recompute(Krylov(steps=3)),
}


def chain_and_point(name: str) -> tuple[Chain, Tensor]:
    make, shape = CHAINS[name]
    chain = cast(Chain, moved(Chain(make())))
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return chain, x


def outcome(
    model: nn.Module, x: Tensor, run: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Values and all gradients."""
    torch.manual_seed(7)
    point = x.clone().requires_grad_()
    y, log_det = run(point)
    loss = y.sin().sum() + (log_det * torch.arange(len(x))).sum()
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, [point, *parameters], materialize_grads=True)
    return [t.detach() for t in (y, log_det, *grads)]


def assert_same(found: list[Tensor], expected: list[Tensor], *, solved: bool) -> None:
    bound = 1e-9 if solved else 0.0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=bound, atol=bound)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("part", ["whole", "segments", "blocks", "bound outside"])
def test_what_is_recomputed_is_what_was_computed(name: str, estimator: str, part: str) -> None:
    chain, x = chain_and_point(name)
    using = Settings(estimator=ESTIMATORS[estimator], solve=PRECISE)

    segments: dict[str, list[Bijection]] = {
        "whole": [chain],
        "segments": [Chain(list(chain)[:2]), Chain(list(chain)[2:])],
    }
    parts = segments.get(part, list(chain))

    def run(x: Tensor, recompute: bool) -> tuple[Tensor, Tensor]:
        how = Pass(using, begun=True).holding(bound_together(chain.contractions(), {}))
        options: dict[str, Any] = {"how": how} if part == "bound outside" else {"using": using}
        total = x.new_zeros(len(x))
        for layer in parts:
            call: Callable[[Tensor], tuple[Tensor, Tensor]] = partial(layer, **options)
            x, term = checkpoint(call, x, use_reentrant=False) if recompute else call(x)
            total = total + term
        return x, total

    found, expected = (outcome(chain, x, partial(run, recompute=r)) for r in (True, False))
    assert_same(found, expected, solved=name in SOLVED)


@pytest.mark.parametrize(
    ("name", "estimator"),
    [("2-d", "default"), *(("6-d", name) for name in ESTIMATORS), ("images", "krylov")],
)
@pytest.mark.parametrize(
    ("direction", "memory"),
    [
        ("transform", Checkpointed(2)),
        ("transform", Reversible(tolerance=1e-10)),
        ("inverse", Reversible(tolerance=1e-10)),
    ],
    ids=["kept inputs", "kept output", "kept output of the inverse"],
)
def test_what_is_not_kept_is_what_was_computed(
    name: str, estimator: str, memory: MemoryPolicy, direction: str
) -> None:
    chain, x = chain_and_point(name)
    model = Invert(chain) if direction == "inverse" else chain
    plain = Settings(estimator=ESTIMATORS[estimator], solve=PRECISE)
    found, expected = (
        outcome(chain, x, partial(model, using=using))
        for using in (replace(plain, memory=memory), plain)
    )
    assert_same(found, expected, solved=True)


@pytest.mark.parametrize("part", ["surrogate", "chain"])
def test_a_surrogate_can_be_recomputed(part: str) -> None:
    layers: list[Bijection] = [SelfNormConv2d(2, 3, (3, 3)), Affine((2, 3, 3))]
    chain = cast(Chain, moved(Chain([*layers, SelfNormConv2d(2, 3, (3, 3))])))
    model = TrainingSurrogate(Flow(StandardNormal((2, 3, 3)).double(), chain))
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)

    def whole(x: Tensor) -> tuple[Tensor, Tensor]:
        if part == "chain":
            return chain(x, using=Settings(mode="surrogate"))
        terms = model(x)
        return terms.surrogate, terms.reconstruction.sum().expand(len(x))

    def recomputed(x: Tensor) -> tuple[Tensor, Tensor]:
        return checkpoint(whole, x, use_reentrant=False)

    assert_same(outcome(chain, x, recomputed), outcome(chain, x, whole), solved=False)


def test_parameters_that_are_passed_on_reach_a_recomputed_layer() -> None:
    chain, x = chain_and_point("no solves")
    layer = chain[0]
    names = [name for name, _ in layer.named_parameters()]
    others = [
        (p.detach() + 1e-3 * torch.randn_like(p)).requires_grad_() for p in layer.parameters()
    ]

    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        state = dict(zip(names, others, strict=True))
        return cast("tuple[Tensor, Tensor]", functional_call(layer, state, (x,), {"how": how}))

    def recomputed(x: Tensor) -> tuple[Tensor, Tensor]:
        def run(x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            state = dict(zip(names, tensors, strict=True))
            result = functional_call(layer, state, (x,), {"how": how})
            return cast("tuple[Tensor, Tensor]", result)

        return checkpoint(run, x, *others, use_reentrant=False)

    how = Pass(begun=True)
    holder = nn.ParameterList(others)
    assert_same(outcome(holder, x, recomputed), outcome(holder, x, plain), solved=False)


def test_a_map_that_was_bound_without_a_graph_is_bound_again_where_one_is_wanted() -> None:
    chain, x = chain_and_point("2-d")
    with torch.no_grad():
        held = bound_together(chain.contractions(), {})
    assert held
    how = Pass(begun=True).holding(held)
    y, log_det = chain[0](x, how=how)
    weights = [p for name, p in chain[0].named_parameters() if name.endswith("weight")]
    grads = torch.autograd.grad(y.sum() + log_det.sum(), weights)
    assert all(bool(g.abs().sum() > 0) for g in grads)


def test_recomputation_reports_nothing() -> None:
    chain, x = chain_and_point("2-d")
    counts: list[list[int]] = []
    for recompute in (False, True):
        with record(chain) as report:
            y, log_det = (
                checkpoint(chain, x.clone().requires_grad_(), use_reentrant=False)
                if recompute
                else chain(x)
            )
            torch.autograd.backward(y.sum() + log_det.sum())
        counts.append([len(report.log_dets[f"layers.{i}"]) for i in (0, 2, 3)])
        counts.append([len(report.solutions["layers.2"]), len(report.derivatives["layers.2"])])
    assert counts[0] == counts[2] == [1, 1, 1]
    assert counts[1] == counts[3]


def test_threads_have_settings_of_their_own() -> None:
    chain, x = chain_and_point("6-d")
    settings = [
        Settings(estimator=Exact(), solve=Solve(tolerance=Tolerance(1e-3))),
        Settings(
            estimator=Krylov(steps=2, probes=3),
            solve=Solve(Anderson(), tolerance=PRECISE.tolerance),
        ),
    ]
    alone: list[tuple[float, bool]] = []
    together: list[tuple[float, bool] | None] = [None, None]

    def look(using: Settings) -> tuple[float, bool]:
        with torch.no_grad(), record(chain) as report:
            for _ in range(20):
                chain(x, using=using)
        figures = report.summary()["layers.1"]
        return figures.evaluations, figures.log_det_error is None

    def work(i: int) -> None:
        together[i] = look(settings[i])

    alone = [look(using) for using in settings]
    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert alone[0][0] < alone[1][0]
    assert [exact for _, exact in alone] == [True, False]


def test_hooks_see_every_layer_in_both_directions() -> None:
    chain, x = chain_and_point("2-d")
    seen: list[str] = []

    def watch(name: str, *_: object) -> None:
        seen.append(name)

    for name, module in chain.named_modules():
        if isinstance(module, Bijection):
            module.register_forward_hook(partial(watch, name))
    there = ["layers.0", "layers.1", "layers.2", "layers.3", ""]
    y = chain.transform(x)
    assert seen == there
    seen.clear()
    chain.inverse_and_log_det(y)
    assert seen == [*there[-2::-1], ""]
    seen.clear()
    Invert(chain).inverse(x)
    assert seen == there


def test_settings_can_be_pickled() -> None:
    settings = Settings(Krylov(), PRECISE, "approximate_inverse", frozenset([5]))
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="every batch size of compiled"):
        Settings(compiled=frozenset([-1]))
    unchecked = unwrap(Settings.__init__)  # as it is without checks of types
    with pytest.raises(ValueError, match="expected a mode of exact, surrogate"):
        unchecked(Settings(), mode="quick")


def test_the_surrogate_mode_has_no_log_density() -> None:
    flow = Flow(StandardNormal((3,)), SelfNormLinear(3))
    x, using = torch.randn(2, 3), Settings(mode="surrogate")
    for call in (flow.log_prob, flow):
        with pytest.raises(ValueError, match="TrainingSurrogate"):
            call(x, using=using)
    integers = Dequantized(flow, UniformDequantizer(), 4)
    with pytest.raises(ValueError, match="TrainingSurrogate"):
        integers.log_prob_bound(x.long(), using=using)


# Contexts


def two_modes(features: int | None) -> Flow:
    chain = Chain([Affine((1,)), Monotone(DenseNet(1, growth=4, context_features=features))])
    return Flow(StandardNormal((1,)), chain)


def test_a_context_that_nobody_uses_is_refused() -> None:
    flow, x, context = two_modes(None), torch.randn(5, 1), torch.randn(5, 2)
    calls: list[Callable[[], object]] = [
        lambda: flow.log_prob(x, context),
        lambda: flow.sample((), context),
        lambda: flow.rsample_and_log_prob((), context),
        lambda: flow.bijection.transform(x, context=context),
        lambda: flow.bijection.inverse_and_log_det(x, context=context),
        lambda: flow.initialize(x, context=context),
        lambda: flow.condition(context).log_prob(x),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="expected no context, as no layer uses one"):
            call()


def test_a_context_that_is_missing_is_refused_before_anything_is_solved() -> None:
    flow, x = two_modes(2), torch.randn(5, 1)
    with record(flow) as report, pytest.raises(ValueError, match="expected a context, got None"):
        Chain([Monotone(DenseNet(1, growth=4)), flow.bijection]).transform(x)
    assert not report.solutions


@pytest.mark.parametrize(
    "context", [torch.randn(5, 3), torch.randn(4, 2), torch.randn(5), torch.ones(5, 2).long()]
)
def test_a_context_of_another_shape_is_refused_by_name(context: Tensor) -> None:
    chain, x = two_modes(2).bijection, torch.randn(5, 1)
    with pytest.raises(ValueError, match="context") as caught:
        chain.transform(x, context=context)
    told = [str(caught.value), *getattr(caught.value, "__notes__", [])]
    assert any(name in text for text in told for name in ("Chain", "layers.1", "DenseNet"))


def test_a_split_prior_replaces_the_context_for_what_is_below() -> None:
    scales: list[Bijection] = [
        Chain(
            [
                Squeeze(),
                Residual(DenseNet(4, growth=4, depth=1, map_size=(2, 2), context_features=1)),
            ]
        ),
        Affine((2, 2, 2)),
    ]
    shapes = [(4, 2, 2), (2, 2, 2)]
    model = Multiscale(scales, shapes, [SplitPrior.convolutional(2, 2, 3)])
    assert model.uses_context
    moved(model)
    x, context = torch.randn(3, 1, 4, 4).double(), torch.randn(3, 1, 2, 2).double()
    y, log_det = model(x, context=context)
    back, other = model.inverse_and_log_det(y, context=context)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(other, -log_det)
    assert not torch.allclose(model.transform(x, context=context + 1), y)
    priors_only = Multiscale(
        [Squeeze(), Affine((2, 2, 2))], shapes, [SplitPrior.convolutional(2, 2, 3)]
    )
    assert not priors_only.uses_context
    with pytest.raises(ValueError, match="no layer uses one"):
        priors_only(torch.randn(3, 1, 4, 4), context=torch.randn(3, 1))


# Sharding


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore")
def test_sharded_layers_bind_themselves() -> None:
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415  # imports Dynamo

    chain, x = chain_and_point("2-d")
    expected = outcome(chain, x, chain)
    for layer in chain:
        if list(layer.parameters()):
            fully_shard(layer)
    fully_shard(chain)
    torch.manual_seed(7)
    point = x.clone().requires_grad_()
    y, log_det = chain(point)
    torch.autograd.backward(y.sin().sum() + (log_det * torch.arange(len(x))).sum())
    grads = [point.grad, *(cast(Any, p.grad).full_tensor() for p in chain.parameters())]
    for one, other in zip([y, log_det, *grads], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("one_process")
def test_distributed_data_parallel_sees_every_gradient() -> None:
    chain, x = chain_and_point("2-d")
    expected = outcome(chain, x, chain)
    parallel = nn.parallel.DistributedDataParallel(chain)
    y, log_det = parallel(x.requires_grad_())
    torch.autograd.backward(y.sin().sum() + (log_det * torch.arange(len(x))).sum())
    grads = [x.grad, *(p.grad for p in chain.parameters())]
    for one, other in zip([y, log_det, *grads], expected, strict=True):
        torch.testing.assert_close(one, other)


def test_small_maps_of_a_chain_share_their_operations_only_where_they_are_whole() -> None:
    chain, _ = chain_and_point("2-d")
    assert len(bound_together(chain.contractions(), {})) == 3
    maps = [
        block.g
        for block in (chain[0], chain[2], chain[3])
        if isinstance(block, Residual | Monotone)
    ]
    assert bound_together(chain.contractions(), bound_together(chain.contractions(), {})) == {}
    assert maps[0].binding_key() is not None
    assert image_net().binding_key() is None


def test_initialization_is_a_pass_in_which_statistics_are_taken() -> None:
    chain = Chain([ActNorm(2), Residual(net(2)), Chain([ActNorm(2), Conv1x1(2)])])
    x = 3 + 2 * torch.randn(64, 2)
    with pytest.raises(RuntimeError, match="ActNorm"):
        chain(x)
    z = chain.initialize(x)
    torch.testing.assert_close(chain.transform(x), z)
    torch.testing.assert_close(chain[0].transform(x).mean(0), torch.zeros(2), rtol=0, atol=1e-5)
