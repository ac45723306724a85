"""The registry of bijections: every concrete class of flow_core, in the sizes that matter."""

import copy
import functools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeVar

import pytest
import torch
import torch.distributed as dist
from flow_core.bijection import Bijection
from flow_core.blocks import Implicit, Monotone, Residual, inverse_residual
from flow_core.combinators import Chain, Invert, Multiscale
from flow_core.layers import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    CheckerboardCoupling,
    Conv1x1,
    ExactConv2d,
    ExponentialConv2d,
    HalfRangeSigmoidScale,
    HouseholderMatrix,
    InverseConv2d,
    Landmark,
    LeakyReLU,
    LearnableLeakyReLU,
    LogitTransform,
    LUMatrix,
    MaskedConv2d,
    Normalize,
    OrthogonalMatrix,
    Permutation,
    RationalQuadraticSpline,
    Reshape,
    SelfNormConv2d,
    SelfNormLinear,
    SELUTransform,
    SigmoidScale,
    SmoothLeakyReLU,
    SmoothTanh,
    SplitPrior,
    Squeeze,
    cinc,
    emerging,
    finc,
    inverse_flow_unit,
    macow_unit,
    normed_conditioner,
    spectral_conditioner,
)
from flow_core.layers.convolutions.masked import SIDES, Side
from flow_core.maps import DenseNet, FeedForwardNet, ResidualConditioner, SandwichNet
from flow_core.settings import Settings, Solve
from flow_core.views import Frozen
from flow_solvers import Tolerance
from torch import Tensor

Net = TypeVar("Net", DenseNet, SandwichNet)
BATCH = 3


@dataclass(frozen=True)
class Case:
    """One bijection: how to make it, and the samples that it takes."""

    name: str
    make: Callable[[], Bijection]
    shape: tuple[int, ...]
    context: tuple[int, ...] | None = None
    unit_interval: bool = False


def actnorm(*shape: int) -> ActNorm:
    return fitted(ActNorm(shape[0]), 2 * torch.randn(16, *shape) + 1)


def fitted(layer: ActNorm, x: Tensor) -> ActNorm:
    """Initialized, where it has numbers."""
    if not x.is_meta:
        layer.initialize(x)
    return layer


def randomized(layer: Bijection) -> Bijection:
    """Away from the identity that layers start as."""
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return layer


def moved(layer: Bijection) -> Bijection:
    """Near where layers start, for those that are not invertible or not stable everywhere."""
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer


def bounded_actnorm() -> ActNorm:
    return fitted(ActNorm(3, log_scale_bound=0.5), 0.1 * torch.randn(16, 3) + 1)


def raised_actnorm() -> ActNorm:
    layer = ActNorm(3, log_scale_bound=1.0, epsilon=0.2, std=0.5)
    return fitted(layer, torch.randn(16, 3, 2, 2))


def normed_coupling() -> AffineCoupling:
    layer = AffineCoupling(normed_conditioner(1, 4, 4), event_shape=(3, None, None))
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(8, 3, 3, 2)
    if not x.is_meta:
        layer.initialize(x)
    return layer


def spectral_coupling() -> AdditiveCoupling:
    return AdditiveCoupling(spectral_conditioner(1, 1, 3, (2, 2)), (2, 2, 2))


def masked(side: Side) -> Bijection:
    return randomized(MaskedConv2d(2, 4, side=side))


def released_macow() -> Bijection:
    unit = macow_unit(2, 3, form="released", scale=SigmoidScale())
    for layer in unit:
        if isinstance(layer, ActNorm):
            fitted(layer, torch.randn(8, 2, 3, 3))
    return randomized(unit)


def exponential(channels: int, side: tuple[int, int]) -> ExponentialConv2d:
    layer = ExponentialConv2d(channels, 3, side)
    torch.nn.init.normal_(layer.conv.weight)
    layer.conv.update_lipschitz(100)
    return layer


def dense(channels: int, context: int | None = None, activation: str = "cpila") -> DenseNet:
    net = DenseNet(
        channels,
        growth=4,
        depth=2,
        coeff=0.9,
        context_features=context,
        activation=activation,
    )
    return conditioned(net)


def sandwich(features: int, context: int | None = None) -> SandwichNet:
    return conditioned(SandwichNet(features, (5, 4), lipschitz=0.8, context_features=context))


def conv(channels: int, side: int, context: int | None = None) -> DenseNet:
    size = (side, side)
    net = DenseNet(channels, growth=4, depth=1, coeff=0.8, map_size=size, context_features=context)
    return conditioned(net)


def entered(features: int) -> DenseNet:
    return DenseNet(features, growth=4, depth=2, coeff=0.9, entrance=3)


def deeply_conditioned(channels: int, side: int) -> DenseNet:
    conditioner = ResidualConditioner(
        1, growth=4, depth=2, map_size=(side, side), width=16, inner=16
    )
    size = (side, side)
    return DenseNet(channels, growth=4, depth=2, coeff=0.8, map_size=size, conditioner=conditioner)


def plain_image(channels: int, side: int) -> FeedForwardNet:
    return FeedForwardNet(
        channels,
        [6],
        activation="clipswish",
        coeff=0.8,
        kernels=[3, 1],
        map_size=(side, side),
        preact=True,
    )


def feedforward(channels: int) -> FeedForwardNet:
    return FeedForwardNet(channels, [6, 6], activation="sin", coeff=0.9)


def conditioned(net: Net) -> Net:
    """Conditioners start at zero: move them, or the context would have no effect."""
    for name, p in net.named_parameters():
        if name.startswith("conditioner"):
            torch.nn.init.normal_(p, std=0.3)
    return net


def spline(*shape: int) -> Bijection:
    """With inputs inside and outside of its interval; without a shape, shared by all values."""
    return randomized(RationalQuadraticSpline(4, 1.2, shape or None))


def multiscale() -> Multiscale:
    return Multiscale(
        scales=[
            Chain([Squeeze(2), actnorm(4, 2, 2)]),
            Monotone(conv(2, 2)),
        ],
        shapes=[(4, 2, 2), (2, 2, 2)],
        priors=[randomized(SplitPrior.convolutional(2, 2, 3))],
    )


CASES = [
    Case("actnorm-vector", lambda: actnorm(4), (4,)),
    Case("actnorm-image", lambda: actnorm(2, 2, 3), (2, 2, 3)),
    Case("affine", lambda: randomized(Affine((2, 3))), (2, 3)),
    Case("logit", lambda: LogitTransform(0.05), (2, 3), unit_interval=True),
    Case("logit-whole-interval", lambda: LogitTransform(0.0), (4,), unit_interval=True),
    Case("normalize", lambda: Normalize([0.1, -2.0], [0.5, 3.0]), (2, 2, 2)),
    Case("permutation", lambda: Permutation([2, 0, 3, 1]), (4, 2)),
    Case("reshape", lambda: Reshape((2, 3), (3, 2, 1)), (2, 3)),
    Case("squeeze", Squeeze, (1, 4, 2)),
    Case("landmark", lambda: Landmark("middle", (2, 3)), (2, 3)),
    Case("actnorm-bounded", bounded_actnorm, (3,)),
    Case("actnorm-raised", raised_actnorm, (3, 2, 2)),
    Case("conv1x1-free", lambda: moved(Conv1x1(3, bias=True)), (3, 2, 2)),
    Case("conv1x1-vector", lambda: moved(Conv1x1(4)), (4,)),
    Case("conv1x1-lu", lambda: moved(Conv1x1(LUMatrix(4))), (4, 2, 1)),
    Case("conv1x1-orthogonal", lambda: randomized(Conv1x1(OrthogonalMatrix(3))), (3, 2, 2)),
    Case("conv1x1-householder", lambda: randomized(Conv1x1(HouseholderMatrix(4, 3))), (4,)),
    Case("coupling-additive", lambda: AdditiveCoupling(torch.nn.Linear(2, 3)), (5,)),
    Case("coupling-vector", lambda: randomized(AffineCoupling.dense(5, 6)), (5,)),
    Case("coupling-image", lambda: randomized(AffineCoupling.convolutional(3, 4)), (3, 3, 2)),
    Case("coupling-normed", normed_coupling, (3, 3, 2)),
    Case("coupling-spectral", spectral_coupling, (2, 2, 2)),
    Case(
        "coupling-checkerboard",
        lambda: randomized(CheckerboardCoupling.convolutional(2, 4, 0)),
        (2, 2, 3),
    ),
    Case(
        "coupling-checkerboard-odd",
        lambda: randomized(CheckerboardCoupling.convolutional(1, 4, 1, SigmoidScale())),
        (1, 3, 2),
    ),
    Case(
        "coupling-sigmoid",
        lambda: randomized(AffineCoupling.dense(4, 5, SigmoidScale(epsilon=0.1))),
        (4,),
    ),
    Case(
        "coupling-half-range",
        lambda: randomized(AffineCoupling.dense(4, 5, HalfRangeSigmoidScale(0.4))),
        (4,),
    ),
    Case(
        "coupling-context",
        lambda: randomized(AffineCoupling.dense(5, 6, context_features=2)),
        (5,),
        (2,),
    ),
    Case(
        "coupling-image-context",
        lambda: randomized(AffineCoupling.convolutional(3, 4, context_features=2)),
        (3, 3, 2),
        (2, 3, 2),
    ),
    Case(
        "coupling-additive-context",
        lambda: AdditiveCoupling(torch.nn.Linear(3, 2), context_features=1),
        (4,),
        (1,),
    ),
    Case("inverse-conv", lambda: moved(InverseConv2d(3, (2, 3), learn_diagonal=True)), (3, 3, 4)),
    Case("inverse-conv-bounded", lambda: randomized(InverseConv2d(2, tap_bound=0.8)), (2, 3, 3)),
    Case("inverse-flow-unit", lambda: moved(inverse_flow_unit(2, 2)), (2, 3, 2)),
    Case("cinc", lambda: moved(cinc(2)), (2, 3, 4)),
    Case("finc", lambda: moved(finc(4)), (4, 2, 3)),
    Case("emerging", lambda: moved(emerging(2, 2)), (2, 3, 3)),
    Case("exact-conv", lambda: moved(ExactConv2d(2, 3, (3, 2))), (2, 3, 2)),
    Case("exact-conv-1x1", lambda: moved(ExactConv2d(3, 1, (2, 2))), (3, 2, 2)),
    Case("self-norm-conv", lambda: moved(SelfNormConv2d(2, 3, (2, 3))), (2, 2, 3)),
    Case("self-norm-linear", lambda: moved(SelfNormLinear(4)), (4,)),
    Case("exponential-conv", lambda: exponential(2, (3, 2)), (2, 3, 2)),
    *(Case(f"masked-conv-{side}", partial(masked, side), (2, 3, 2)) for side in SIDES),
    Case(
        "masked-conv-released",
        lambda: randomized(
            MaskedConv2d(2, 4, side="left", form="scale-shift", scale=HalfRangeSigmoidScale())
        ),
        (2, 3, 2),
    ),
    Case("macow-unit", lambda: randomized(macow_unit(1, 3)), (1, 3, 3)),
    Case("macow-unit-released", released_macow, (2, 3, 3)),
    Case("leaky-relu", LeakyReLU, (4,)),
    Case("leaky-relu-image", lambda: LeakyReLU(3.0), (1, 3, 2)),
    Case("learnable-leaky-relu", lambda: randomized(LearnableLeakyReLU()), (4,)),
    Case("learnable-leaky-relu-image", lambda: randomized(LearnableLeakyReLU()), (2, 2, 3)),
    Case("smooth-leaky-relu", SmoothLeakyReLU, (4,)),
    Case("smooth-leaky-relu-image", lambda: SmoothLeakyReLU(0.02), (2, 2, 3)),
    Case("smooth-tanh", SmoothTanh, (4,)),
    Case("smooth-tanh-image", lambda: SmoothTanh(3.0, 0.4), (2, 2, 3)),
    Case("selu", SELUTransform, (4,)),
    Case("selu-image", SELUTransform, (2, 2, 3)),
    Case("spline", spline, (4,)),
    Case("spline-image", spline, (2, 2, 3)),
    Case("spline-individual", lambda: spline(4), (4,)),
    Case("spline-individual-image", lambda: spline(2, 2, 3), (2, 2, 3)),
    Case("split-prior", lambda: randomized(SplitPrior.dense(3, 4, 5)), (4,), (3,)),
    Case(
        "split-prior-image",
        lambda: randomized(SplitPrior.convolutional(2, 1, 3)),
        (1, 3, 3),
        (2, 3, 3),
    ),
    Case("residual-1d", lambda: Residual(dense(1)), (1,)),
    Case("residual-2d", lambda: Residual(dense(2)), (2,)),
    Case("residual-feedforward", lambda: Residual(feedforward(5)), (5,)),
    Case("residual-image", lambda: Residual(conv(2, 3)), (2, 3, 3)),
    Case("residual-context", lambda: Residual(dense(3, 2)), (3,), (2,)),
    Case("inverse-residual-2d", lambda: inverse_residual(dense(2)), (2,)),
    Case("monotone-1d", lambda: Monotone(dense(1)), (1,)),
    Case("monotone-2d", lambda: Monotone(dense(2)), (2,)),
    Case("monotone-entrance-2d", lambda: Monotone(entered(2)), (2,)),
    Case("monotone-entrance-6d", lambda: Monotone(entered(6)), (6,)),
    Case("monotone-5d", lambda: Monotone(feedforward(5)), (5,)),
    Case("monotone-context", lambda: Monotone(dense(2, 3)), (2,), (3,)),
    Case("monotone-image-context", lambda: Monotone(conv(1, 2, context=2)), (1, 2, 2), (2, 2, 2)),
    Case(
        "monotone-deep-context",
        lambda: Monotone(deeply_conditioned(2, 2)),
        (2, 2, 2),
        (1, 2, 2),
    ),
    Case("residual-sandwich", lambda: Residual(sandwich(5)), (5,)),
    Case("monotone-sandwich", lambda: Monotone(sandwich(2, 3)), (2,), (3,)),
    Case("implicit-sandwich", lambda: Implicit(sandwich(3), sandwich(3)), (3,)),
    Case("implicit-2d", lambda: Implicit(dense(2), feedforward(2)), (2,)),
    Case("implicit-6d", lambda: Implicit(feedforward(6), dense(6)), (6,)),
    Case("implicit-context", lambda: Implicit(dense(2, 3), dense(2, 3)), (2,), (3,)),
    Case("invert", lambda: Invert(randomized(Affine((3,)))), (3,)),
    Case("chain", lambda: Chain([actnorm(2), Monotone(dense(2)), Permutation([1, 0])]), (2,)),
    Case("multiscale", multiscale, (1, 4, 4)),
    Case("frozen", lambda: Frozen(Chain([actnorm(2), Residual(dense(2))])), (2,)),
    Case("residual-maxmin", lambda: Residual(dense(4, activation="maxmin")), (4,)),
    Case("monotone-sorted", lambda: Monotone(dense(2, activation="fullsort")), (2,)),
    Case("monotone-preact", lambda: Monotone(plain_image(2, 3)), (2, 3, 3)),
    Case("scalar-affine", lambda: randomized(Affine(())), ()),
    Case("scalar-logit", lambda: LogitTransform(0.05), (), unit_interval=True),
    Case("scalar-leaky-relu", LeakyReLU, ()),
    Case("scalar-smooth-tanh", SmoothTanh, ()),
    Case("scalar-selu", SELUTransform, ()),
    Case("scalar-spline", spline, ()),
    Case(
        "chain-context",
        lambda: Chain([Monotone(dense(2, 3)), actnorm(2), Residual(dense(2))]),
        (2,),
        (3,),
    ),
]


@functools.cache
def template(name: str, seed: int = 0) -> Bijection:
    """A case's bijection in float32 and evaluation mode, made once."""
    case = next(case for case in CASES if case.name == name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return case.make().eval()


@pytest.fixture
def registered() -> set[type[Bijection]]:
    """The classes that the registry covers by themselves, not only inside another."""
    return {type(template(case.name)) for case in CASES}


@pytest.fixture
def case_name(case: Case) -> str:
    return case.name


KINDS: dict[str, Callable[[Case], bool]] = {
    "small": lambda case: prod(case.shape) <= 6 and "sorted" not in case.name,
    "context": lambda case: case.context is not None,
    # A view keeps the weights that it was made with.
    "stateful": lambda case: case.name != "frozen",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cases(kind): only the cases of a kind in KINDS")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bijection" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("cases")
        chosen = [case for case in CASES if marker is None or KINDS[marker.args[0]](case)]
        metafunc.parametrize("case", chosen, ids=lambda case: case.name)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    parameter: torch.dtype = request.param
    return parameter


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture
def bijection(case: Case, dtype: torch.dtype, device: torch.device) -> Bijection:
    """A fresh copy."""
    return copy.deepcopy(template(case.name)).to(device=device, dtype=dtype)


@pytest.fixture
def on_meta(case: Case) -> Bijection:
    """The same, made without memory."""
    with torch.device("meta"):
        return case.make().eval()


@pytest.fixture
def using(dtype: torch.dtype) -> Settings:
    """In float64 solves go to rounding error, so that gradients can be checked."""
    precise = Solve(tolerance=Tolerance(rtol=1e-13))
    return Settings(solve=precise if dtype == torch.float64 else None)


@pytest.fixture
def stranger(case: Case, dtype: torch.dtype, device: torch.device) -> Bijection:
    """The same architecture with other parameters."""
    return copy.deepcopy(template(case.name, seed=1)).to(device=device, dtype=dtype)


@pytest.fixture
def x(case: Case, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (BATCH, *case.shape)
    value = (
        0.05 + 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64)
        if case.unit_interval
        else torch.randn(shape, generator=generator, dtype=torch.float64)
    )
    return value.to(device=device, dtype=dtype)


@pytest.fixture
def context(case: Case, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    if case.context is None:
        return None
    generator = torch.Generator().manual_seed(2)
    value = torch.randn((BATCH, *case.context), generator=generator, dtype=torch.float64)
    return value.to(device=device, dtype=dtype)


@pytest.fixture
def one_process(tmp_path: Path) -> Generator[None]:
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/store")
    yield
    dist.destroy_process_group()
