"""Facts of couplings and their scales that the contract test cannot know."""

import math
from collections.abc import Collection, Mapping

import pytest
import torch
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.combinators import Chain
from flow_core.distributions import Flow
from flow_core.initialization import initialize
from flow_core.layers import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    BoundedExpScale,
    HalfRangeSigmoidScale,
    Permutation,
    ScaleFunction,
    SigmoidScale,
    UpperHalfSigmoidScale,
    normed_conditioner,
    spectral_conditioner,
)
from flow_core.lipschitz import lipschitz_certificate, update_lipschitz
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

SCALES: list[tuple[ScaleFunction, float, float]] = [
    (SigmoidScale(), 0.0, 1.0),
    (SigmoidScale(epsilon=0.25), 0.25, 1.25),
    (UpperHalfSigmoidScale(), 0.5, 1.0),
    (HalfRangeSigmoidScale(0.3), 0.3, 1.7),
    (HalfRangeSigmoidScale(0.0), 0.0, 2.0),
    (BoundedExpScale(), math.exp(-2), math.exp(2)),
    (BoundedExpScale(bound=math.log(3), slope=math.log(3)), 1 / 3, 3.0),
]


def formula(scale: ScaleFunction, raw: Tensor) -> Tensor:
    """The scales as the papers write them."""
    if isinstance(scale, SigmoidScale):
        return torch.sigmoid(raw + scale.shift) + scale.epsilon
    if isinstance(scale, UpperHalfSigmoidScale):
        return 0.5 * torch.sigmoid(raw + scale.shift) + 0.5
    if isinstance(scale, HalfRangeSigmoidScale):
        return (2 * torch.sigmoid(raw) - 1) * (1 - scale.epsilon) + 1
    assert isinstance(scale, BoundedExpScale)
    return (scale.bound * torch.tanh(scale.slope * raw / scale.bound)).exp()


@pytest.mark.parametrize(("scale", "low", "high"), SCALES)
def test_scales_are_those_of_the_papers(scale: ScaleFunction, low: float, high: float) -> None:
    raw = torch.linspace(-8, 8, 101, dtype=torch.float64)
    assert torch.allclose(scale.log_scale(raw).exp(), formula(scale, raw), rtol=1e-12)
    extreme = scale.log_scale(torch.tensor([-30.0, 30.0], dtype=torch.float64)).exp()
    assert torch.allclose(extreme, torch.tensor([low, high], dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize(("scale", "low", "high"), SCALES)
def test_scales_and_slopes_are_finite_for_any_number(
    scale: ScaleFunction, low: float, high: float
) -> None:
    raw = torch.tensor([-1e30, -200.0, 0.0, 200.0, 1e30], requires_grad=True)
    log_scale = scale.log_scale(raw)
    (slope,) = torch.autograd.grad(log_scale[1:-1].sum(), raw)
    assert bool(torch.isfinite(log_scale).all())
    assert bool(torch.isfinite(slope).all())


def test_couplings_begin_as_the_identity_and_keep_the_first_half() -> None:
    x = torch.randn(3, 5, 4, 4)
    layer = AffineCoupling.convolutional(5, 8)
    assert torch.equal(layer.transform(x), x)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    y = layer.transform(x)
    assert torch.equal(y[:, :2], x[:, :2])
    assert not torch.equal(y[:, 2:], x[:, 2:])


def test_affine_coupling_formula() -> None:
    layer = AffineCoupling(torch.nn.Linear(2, 4), BoundedExpScale(bound=3.0)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    shift, raw = layer.conditioner(x[:, :2]).chunk(2, 1)
    expected = (x[:, 2:] + shift) * (3 * torch.tanh(raw / 3)).exp()
    y, log_det = layer(x)
    assert torch.allclose(y[:, 2:], expected)
    assert torch.allclose(log_det, (3 * torch.tanh(raw / 3)).sum(1))


def test_parameters_of_the_zero_convolution_are_not_shared() -> None:
    last = AffineCoupling.convolutional(4, 8).conditioner[-1]  # type: ignore[index] # a Sequential
    assert last.bias.data_ptr() != last.log_scale.data_ptr()


def test_bounded_actnorm_standardises_within_its_bound() -> None:
    x = torch.randn(500, 2, dtype=torch.float64) * torch.tensor([0.5, 100.0]) + 7
    free = ActNorm(2).double().initialize(x)
    bounded = ActNorm(2, log_scale_bound=2.0).double()
    bounded.initialize(x)
    y, log_det = bounded(x)
    assert torch.allclose(y[:, 0], free[:, 0])
    assert float(log_det[0].detach()) >= -0.5 * math.log(0.25) - 2.0
    torch.nn.init.constant_(bounded.log_scale, 1e6)
    assert torch.allclose(bounded(x)[1], torch.full((500,), 4.0, dtype=torch.float64))


def test_actnorm_with_an_epsilon_standardises_and_never_shrinks_below_it() -> None:
    x = torch.randn(500, 2, dtype=torch.float64) * torch.tensor([0.5, 3.0]) + 7
    layer = ActNorm(2, epsilon=0.1, std=0.7).double()
    y = layer.initialize(x)
    assert torch.allclose(y.std(0), y.new_full((2,), 0.7), rtol=1e-12)
    torch.nn.init.constant_(layer.log_scale, -1e6)
    y, log_det = layer(x)
    assert torch.allclose(y, 0.1 * (x + layer.bias), rtol=1e-12)
    assert torch.allclose(log_det, y.new_full((500,), 2 * math.log(0.1)), rtol=1e-12)


def test_actnorm_begins_above_its_epsilon_where_channels_are_too_large() -> None:
    layer = ActNorm(2, epsilon=0.1).double()
    y = layer.initialize(1e3 * torch.randn(500, 2, dtype=torch.float64))
    assert bool(layer.log_scale.isfinite().all())
    assert bool((y.std(0) > 1).all())


def additive(x: Tensor) -> Tensor:
    return AdditiveCoupling(torch.nn.Identity()).transform(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SigmoidScale(epsilon=-0.1), "epsilon >= 0"),
        (lambda: HalfRangeSigmoidScale(1.0), "epsilon < 1"),
        (lambda: BoundedExpScale(bound=0.0), "positive bound"),
        (lambda: AffineCoupling.dense(1, 4), "two channels"),
        (lambda: ActNorm(3, log_scale_bound=0.0), "positive log_scale_bound"),
        (lambda: ActNorm(3, epsilon=-0.1), "epsilon >= 0"),
        (lambda: ActNorm(3, std=0.0), "positive std"),
        (lambda: additive(torch.zeros(2, 1)), "^AdditiveCoupling: .* at least two channels"),
        (
            lambda: AffineCoupling(torch.nn.Linear(2, 3))(torch.zeros(2, 4)),
            r"^AffineCoupling: .*gives \(2, 4\) for moved values of shape \(2, 2\), got \(2, 3\)",
        ),
        (
            lambda: additive(torch.zeros(2, 3)),
            r"^AdditiveCoupling: .*moved values of shape \(2, 2\), got \(2, 1\)",
        ),
        (
            lambda: AffineCoupling.dense(4, 5).transform(torch.zeros(2, 4, 3)),
            r"^AffineCoupling: expected x of shape \(batch, 4\), got \(2, 4, 3\)",
        ),
        (
            lambda: AffineCoupling.convolutional(4, 5).inverse(torch.zeros(4, 3, 3)),
            r"^AffineCoupling: expected y of shape \(batch, 4, any, any\), got \(4, 3, 3\)",
        ),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def test_the_conditioner_sees_the_context_behind_the_first_half() -> None:
    layer = AdditiveCoupling(torch.nn.Linear(3, 2), context_features=1)
    x, context = torch.randn(6, 4), torch.randn(6, 1)
    expected = x[:, 2:] + layer.conditioner(torch.cat([x[:, :2], context], 1))
    torch.testing.assert_close(layer.transform(x, context=context)[:, 2:], expected)


def test_a_context_that_does_not_fit_is_refused() -> None:
    layer = AffineCoupling.convolutional(4, 8, context_features=2)
    x = torch.randn(3, 4, 2, 2)
    with pytest.raises(ValueError, match="AffineCoupling: expected a context, got None"):
        layer.transform(x)
    for shape in ((3, 2), (3, 1, 2, 2), (3, 2, 4, 4)):
        with pytest.raises(ValueError, match=r"a context of shape \(batch, 2, 2, 2\)"):
            layer.transform(x, context=torch.randn(shape))
    with pytest.raises(ValueError, match="no layer uses one"):
        AffineCoupling.convolutional(4, 8).transform(x, context=torch.randn(3, 2, 2, 2))
    with pytest.raises(ValueError, match="context_features of at least 1, got 0"):
        AffineCoupling.dense(4, 8, context_features=0)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as torch has it
    """Counts what reaches the kernels, views left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as torch has it
        self.count = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        self.count += not func.is_view
        return func(*args, **kwargs or {})


def operations(couplings: int, *, trains: bool) -> int:
    """What a pass takes through couplings on two values that change places between them."""
    layers: list[Bijection] = []
    for _ in range(couplings):
        layers += [AffineCoupling.dense(2, 4), Permutation.reversal(2)]
    flow = Flow(StandardNormal((2,)), Chain(layers))
    with Operations() as counted:
        if trains:
            torch.autograd.backward(flow.log_prob(torch.zeros(3, 2)).sum())
        else:
            flow.sample((3,))
    return int(counted.count)


@pytest.mark.parametrize(("trains", "most"), [(True, 38), (False, 14)])
def test_a_coupling_costs_few_operations(trains: bool, most: int) -> None:
    # Three linear layers, two ReLU, 3 for the scale, 4 for the map; without a log-determinant
    # nothing is made for it.
    assert (operations(5, trains=trains) - operations(3, trains=trains)) / 2 <= most


def test_norms_of_a_conditioner_are_set_where_its_coupling_is() -> None:
    x = 5 + 3 * torch.randn(40, 4, 3, 3, dtype=torch.float64)
    layer = AffineCoupling(normed_conditioner(2, 4, 6)).double()
    with pytest.raises(RuntimeError, match="to be initialized from data"):
        layer(x)
    chain = Chain([ActNorm(4), layer])
    flow = Flow(StandardNormal((4, 3, 3)), chain).double()
    report = initialize(flow, x)
    assert len(report.initialized) == 3
    first, norm = list(layer.conditioner.children())[:2]
    seen = norm(first(chain[0].transform(x)[:, :2]))
    assert torch.allclose(seen.mean((0, 2, 3)), seen.new_zeros(6), atol=1e-12)


def test_spectral_conditioners_are_contractions_of_which_no_certificate_is_asked() -> None:
    layer = AdditiveCoupling(spectral_conditioner(2, 2, 5, (3, 3), coeff=0.9), (4, 3, 3)).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(10)
    update_lipschitz(layer, 50)
    assert lipschitz_certificate(layer) == {}
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    net = layer.conditioner
    matrix: Tensor = torch.autograd.functional.jacobian(net, x)  # type: ignore[no-untyped-call]
    matrix = matrix.reshape(18, 18)
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= 0.9**3
    assert layer.bounds().transform < 2
