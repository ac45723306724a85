"""Whole image flows: every linear layer, activation, mixing and coupling that a config names."""

import math
from dataclasses import replace
from functools import partial
from typing import Any, cast, get_args

import jaxtyping
import pytest
import torch
from flow_core.blocks import FixedPointBlock, Implicit, Monotone
from flow_core.combinators import Chain, Multiscale
from flow_core.distributions import Flow
from flow_core.initialization import initialize
from flow_core.jacobian import jacobian
from flow_core.layers import (
    ActNorm,
    AffineCoupling,
    BoundedExpScale,
    CheckerboardCoupling,
    HalfRangeSigmoidScale,
    InverseConv2d,
    MaskedConv2d,
    Permutation,
    Reshape,
    ScaleFunction,
    SigmoidScale,
    Squeeze,
    UpperHalfSigmoidScale,
)
from flow_core.lipschitz import update_lipschitz
from flow_core.maps import FeedForwardNet
from flow_core.models import ContractiveConfig, FlowConfig, image_flow
from flow_core.models.config import ActivationName, Block, CouplingKind, Linear, Mixing, ScaleName
from flow_core.settings import Settings, Solve
from flow_logdet import Exact
from flow_solvers import Tolerance
from torch import Tensor, nn

SHAPE = (1, 4, 4)
SMALL = FlowConfig(block_size=1, coupling_width=4, alpha=0.05)
FEW = ContractiveConfig(scales=(1, 1), growth=4, depth=1, dense_blocks=1, dense_growth=4)


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 + 0.8 * torch.rand((count, *SHAPE), generator=generator, dtype=torch.float64)


def made(config: FlowConfig) -> Flow:
    """A flow away from where training begins."""
    torch.manual_seed(0)
    flow = image_flow(config, SHAPE).double()
    if config.actnorm and config.architecture == "glow":
        initialize(flow, images(50))
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return flow.eval()


def made_of_blocks(config: ContractiveConfig) -> Flow:
    """A flow of blocks away from where training begins."""
    torch.manual_seed(0)
    solve = Solve(tolerance=Tolerance(rtol=1e-13))
    flow = image_flow(config, SHAPE, solve=solve).double()
    update_lipschitz(flow)
    initialize(flow, images(50))
    with torch.no_grad():
        for name, p in flow.named_parameters():
            if "log_scale" in name or "bias" in name:
                p.add_(0.05 * torch.randn_like(p))
    return flow.eval()


def of_released_glow(coupling: CouplingKind) -> FlowConfig:
    """What the trainer of Behrmann et al. 2021 builds, of its options those far from none."""
    return replace(
        SMALL,
        linear="none",
        mixing="reverse",
        actnorm_eps=0.1,
        actnorm_bound=math.log(5),
        actnorm_std=0.7,
        coupling=coupling,
        coupling_eps=0.05 if coupling in ("sigmoid", "half-range") else None,
        coupling_shift=1.0,
        coupling_bound=math.log(3),
        coupling_slope=math.log(3),
        coupling_net="normed",
        split_net="linear",
        split_bound=None,
        mean=(0.5,),
        std=(1.0,),
    )


def variants() -> list[FlowConfig]:
    change = partial(replace, SMALL)
    return [
        *(change(linear=name) for name in get_args(Linear)),
        *(change(linear="conv1x1", activation=name) for name in get_args(ActivationName)),
        *(change(mixing=name) for name in get_args(Mixing)),
        *(change(coupling=name) for name in get_args(CouplingKind)),
        change(split_prior=False, actnorm=False, block_size=2),
        *(of_released_glow(name) for name in ("additive", "sigmoid", "half-range", "affine")),
        change(linear="none", mixing="reverse", coupling="additive", coupling_net="spectral"),
        change(activation="spline", individual=True, tap_bound=0.9, actnorm_bound=1.0),
        change(architecture="cnn", linear="exact", activation="spline", block_size=2),
        change(architecture="cnn", linear="self-normalizing", num_blocks=3),
        change(architecture="fully-connected", linear="self-normalizing", activation="slr"),
        change(architecture="fully-connected", linear="exact", block_size=2),
    ]


def described(config: FlowConfig) -> str:
    changed = {k: v for k, v in vars(config).items() if v != getattr(SMALL, k)}
    return "-".join(f"{k}={v}" for k, v in changed.items()) or "default"


@pytest.mark.parametrize("config", variants(), ids=described)
def test_log_prob_counts_every_log_det_once(config: FlowConfig) -> None:
    flow, x = made(config), images(3)
    z = flow.bijection.transform(x)
    matrix = jacobian(flow.bijection, x)
    log_det = torch.linalg.slogdet(matrix).logabsdet
    gaussian = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    assert torch.allclose(flow.log_prob(x), gaussian + log_det, atol=1e-8)
    again = flow.bijection.inverse(z)
    assert torch.allclose(again, x, atol=1e-8)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"block": "residual", "alpha": 0.0, "dense_blocks": 0},
        {"block": "implicit"},
        {"block": "implicit", "net": "feedforward", "width": 6, "kernels": (3, 1)},
        {"factor_out": True},
        {"factor_out": True, "squeeze_first": True, "dense_blocks": 0},
        {"squeeze_first": True, "activation": "clipswish"},
        {"dense_entrance": 3, "actnorm": False},
        {"net": "feedforward", "activation": "lipswish", "width": 6, "kernels": (3, 1)},
        {
            "net": "feedforward",
            "activation": "clipswish",
            "dense_width": 4,
            "dropout": 0.5,
            "depth": 2,
        },
        {"block": "coupling", "scales": (2, 4), "dense_blocks": 2, "width": 4, "dense_width": 3},
        {"block": "coupling", "factor_out": True, "scales": (1, 5), "width": 4},
        {
            "block": "coupling",
            "scales": (3, 3),
            "width": 4,
            "coupling_order": "checkerboards-first",
            "coupling_scale": "upper-half-of-channels",
            "coupling_activation": "elu",
        },
    ],
    ids=str,
)
def test_log_prob_of_flows_of_blocks_counts_every_log_det_once(fields: dict[str, Any]) -> None:
    flow, x = made_of_blocks(replace(FEW, **fields)), images(3)
    z = flow.bijection.transform(x)
    log_det = torch.linalg.slogdet(jacobian(flow.bijection, x)).logabsdet
    gaussian = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    exact = Settings(estimator=Exact())
    assert torch.allclose(flow.log_prob(x, using=exact), gaussian + log_det, atol=1e-8)
    assert torch.allclose(flow.bijection.inverse(z), x, atol=1e-8)


def test_where_squeezes_lie_and_what_leaves() -> None:
    config = replace(FEW, scales=(1, 1, 1), squeeze_first=True, factor_out=True)
    scales = next(m for m in image_flow(config, (3, 16, 8)).modules() if isinstance(m, Multiscale))
    # 3 channels become 12, then 48 of which 24 stay, then 96 of which 48 stay.
    assert scales.shapes == ((48, 4, 2), (96, 2, 1), (48, 2, 1))
    kinds = [[type(layer) for layer in cast(Chain, scale)] for scale in scales.scales]
    assert kinds[0] == [Squeeze, ActNorm, Monotone, ActNorm, Squeeze]
    assert kinds[1] == [Monotone, ActNorm, Squeeze]
    assert kinds[2] == [Monotone, ActNorm, Reshape, Monotone, ActNorm, Reshape]


@pytest.mark.parametrize(
    ("scale", "of_checkerboards", "of_channels"),
    [
        ("sigmoid", SigmoidScale, SigmoidScale),
        ("upper-half-sigmoid", UpperHalfSigmoidScale, UpperHalfSigmoidScale),
        ("upper-half-of-channels", SigmoidScale, UpperHalfSigmoidScale),
    ],
)
def test_checkerboards_come_first_and_have_the_scales_that_they_are_told(
    scale: Any, of_checkerboards: type, of_channels: type
) -> None:
    config = replace(
        FEW,
        block="coupling",
        scales=(3, 2),
        dense_blocks=1,
        coupling_order="checkerboards-first",
        coupling_scale=scale,
        coupling_activation="elu",
    )
    layers = list(image_flow(config, SHAPE).modules())
    couplings = [m for m in layers if isinstance(m, CheckerboardCoupling | AffineCoupling)]
    assert [type(m) for m in couplings] == [CheckerboardCoupling] * 3 + [AffineCoupling] * 3
    assert [type(m.scale) for m in couplings] == [of_checkerboards] * 3 + [of_channels] * 3
    assert [cast("CheckerboardCoupling", m).still for m in couplings[:3]] == [0, 1, 0]
    assert not any(isinstance(m, nn.ReLU) for m in layers)


def test_implicit_blocks_have_two_maps_of_their_own() -> None:
    flow = image_flow(replace(FEW, block="implicit", net="feedforward", kernels=(3, 1)), SHAPE)
    blocks = [m for m in flow.modules() if isinstance(m, Implicit)]
    assert len(blocks) == 3
    for block in blocks:
        own = {id(p) for p in block.g_x.parameters()}
        assert own
        assert own.isdisjoint(id(p) for p in block.g_z.parameters())
    maps = [cast(FeedForwardNet, m) for b in blocks for m in (b.g_x, b.g_z)]
    assert [m.preact is None for m in maps] == [True, True, False, False, False, False]


def test_blocks_solve_as_they_are_told() -> None:
    solve = Solve(on_failure="return")
    flow = image_flow(FEW, SHAPE, solve=solve)
    blocks = [m for m in flow.modules() if isinstance(m, FixedPointBlock)]
    assert len(blocks) == 3
    assert all(block.solve is solve for block in blocks)
    assert all(
        m.solve == Solve() for m in image_flow(FEW, SHAPE).modules() if isinstance(m, Monotone)
    )


def test_parameters_of_the_published_glow() -> None:
    config = FlowConfig(linear="conv1x1", block_size=16, actnorm=True)
    count = sum(p.numel() for p in image_flow(config, (1, 28, 28)).parameters())

    def network(still: int, moved: int) -> int:
        zero = 2 * moved * (9 * 512 + 2)
        return (9 * still + 1) * 512 + (512 + 1) * 512 + zero

    def step(channels: int) -> int:
        return 2 * channels + channels**2 + network(channels // 2, channels // 2)

    # The split prior has two convolutions of the width of the couplings, with biases.
    prior = (9 * 2 + 1) * 512 + (9 * 512 + 1) * 4
    assert count == 16 * (step(4) + step(8)) + prior


def test_models_follow_from_the_seed() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(image_flow(SMALL, SHAPE).state_dict())
    assert all(torch.equal(states[0][k], v) for k, v in states[1].items())


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"num_blocks": 0}, SHAPE, "num_blocks: expected a positive"),
        ({"alpha": 0.5}, SHAPE, "alpha"),
        ({"num_blocks": 3}, SHAPE, "num_blocks: images of 4x4 cannot be halved 3 times"),
        ({"kernel_size": 65}, SHAPE, "kernel_size: expected at most 63, got 65"),
        ({"block_size": 10**9}, SHAPE, "block_size: expected at most 1024, got 1000000000"),
        (
            {"num_blocks": 64, "block_size": 64},
            SHAPE,
            "num_blocks times block_size: expected at most 1024, got 4096",
        ),
        ({"architecture": "fully-connected"}, SHAPE, "self-normalizing or exact or conv1x1"),
        ({"architecture": "cnn", "linear": "none"}, SHAPE, "only a glow needs none, not cnn"),
        ({"actnorm_eps": -0.1}, SHAPE, r"actnorm_eps: expected in \[0, inf\), got -0.1"),
        ({"coupling": "half-range", "coupling_eps": 1.0}, SHAPE, r"coupling_eps: .*\[0, 1\)"),
        ({"coupling_bound": 0.0}, SHAPE, "coupling_bound: expected between 0 and inf"),
        ({"coupling_coeff": 1.0}, SHAPE, "coupling_coeff: expected between 0 and 1"),
        ({"mean": (0.5,)}, SHAPE, "std: expected a positive number for each of 1 means"),
        ({"mean": (0.5,) * 3, "std": (1.0,) * 3}, SHAPE, "mean: .* each of 1 channels"),
        ({"classes": 3}, SHAPE, "classes: expected learn_top"),
        ({"architecture": "cnn", "linear": "exact", "learn_top": True}, SHAPE, "learn_top: exp"),
        ({"architecture": "cnn", "linear": "fincflow"}, SHAPE, "four divides"),
        *(
            ({"linear": name, "tap_bound": 0.9}, SHAPE, f"tap_bound: expected None, .*not {name}")
            for name in ("conv1x1", "self-normalizing", "exact", "exponential", "macow")
        ),
    ],
)
def test_bad_configs_are_refused(
    fields: dict[str, Any], shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        image_flow(FlowConfig(**fields), shape)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scales": ()}, r"scales: expected positive integers, got \(\)"),
        ({"scales": (2, 0)}, "scales: expected positive integers"),
        ({"scales": (1, 1, 1, 1)}, "scales: images of 4x4 cannot be halved 3 times"),
        ({"scales": (1, 1, 1), "squeeze_first": True}, "scales: .* cannot be halved 3 times"),
        ({"scales": (1000, 1000)}, "blocks of all scales and dense_blocks: .* 1024, got 2002"),
        ({"dense_blocks": -1}, "dense_blocks: expected 0 or a positive integer, got -1"),
        ({"depth": 100_000}, "depth: expected at most 64, got 100000"),
        ({"growth": 0}, "growth: expected a positive integer, got 0"),
        ({"dense_growth": 10**6}, "dense_growth: expected at most 8192, got 1000000"),
        ({"growth": 3}, "growth"),
        ({"activation": "cpilla"}, "activation: expected one of .*did you mean 'cpila'"),
        ({"alpha": 0.5}, r"alpha: expected in \[0, 0.5\), got 0.5"),
        ({"alpha": math.nan}, r"alpha: expected in \[0, 0.5\), got nan"),
        ({"coeff": 1.0}, "coeff: expected between 0 and 1, exclusive, got 1.0"),
        ({"dense_entrance": 0}, "dense_entrance: expected a positive integer, got 0"),
        (
            {"net": "feedforward", "depth": 1},
            r"kernels: expected depth \+ 1 = 2 sizes, got \(3, 1, 3\)",
        ),
        ({"dropout": 0.1}, "dropout: expected 0, only feedforward nets have it, not dense"),
        ({"net": "feedforward", "dropout": 1.0}, r"dropout: expected in \[0, 1\)"),
        ({"concat_bound": 1.5}, r"concat_bound: expected in \(0, 1\], got 1.5"),
    ],
)
def test_bad_configs_of_blocks_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_flow(ContractiveConfig(**fields), SHAPE)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("linear", "zzz", "linear: expected one of inverse-conv, .*, none, got 'zzz'"),
        ("architecture", None, "architecture: expected one of glow, .*, got None"),
        ("mixing", "zzz", "mixing: expected one of none, "),
        ("coupling", "zzz", "coupling: expected one of affine, "),
        ("macow_scale", "zzz", "macow_scale: expected one of bounded-exp, sigmoid, half-range"),
        ("macow_form", "zzz", "macow_form: expected one of plain, released"),
        ("activation", ["slr"], r"activation: expected one of none, .*, got \['slr'\]"),
    ],
)
def test_words_without_a_meaning_are_refused_by_name(
    field: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for users, whose calls are not checked.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        FlowConfig(**{field: value})
    with pytest.raises(
        ValueError, match="block: expected one of monotone, residual, implicit, coupling, got 'zzz'"
    ):
        ContractiveConfig(block=cast(Block, "zzz"))


@pytest.mark.parametrize(
    "linear", ["inverse-conv", "inverse-flow-unit", "fincflow", "cincflow", "emerging"]
)
def test_the_bound_of_taps_reaches_every_inverse_convolution(linear: Linear) -> None:
    flow = image_flow(replace(SMALL, linear=linear, tap_bound=0.75), SHAPE)
    layers = [m for m in flow.modules() if isinstance(m, InverseConv2d)]
    assert layers
    for layer in layers:
        torch.nn.init.normal_(layer.weight)
        assert layer.growth_bound() == pytest.approx(4.0, rel=1e-4)


def test_scales_of_couplings_are_those_of_the_config() -> None:
    def scales(**fields: Any) -> set[ScaleFunction]:
        return scale_functions(image_flow(replace(SMALL, linear="conv1x1", **fields), SHAPE))

    third = math.log(3)
    assert scales() == {BoundedExpScale(2.0, 1.0)}
    assert scales(coupling_bound=third, coupling_slope=third) == {BoundedExpScale(third, third)}
    assert scales(coupling="sigmoid") == {SigmoidScale(2.0, 0.0)}
    assert scales(coupling="sigmoid", coupling_shift=0.0, coupling_eps=0.01) == {
        SigmoidScale(0.0, 0.01)
    }
    assert scales(coupling="half-range") == {HalfRangeSigmoidScale(0.5)}
    assert scales(coupling="half-range", coupling_eps=0.0) == {HalfRangeSigmoidScale(0.0)}


def test_a_glow_without_linear_layers_has_a_permutation_between_actnorm_and_coupling() -> None:
    flow = image_flow(of_released_glow("sigmoid"), SHAPE)
    scales = next(m for m in flow.modules() if isinstance(m, Multiscale))
    kinds = [type(layer) for layer in cast(Chain, scales.scales[0])]
    assert kinds == [Squeeze, ActNorm, Permutation, AffineCoupling]


def scale_functions(flow: Flow) -> set[ScaleFunction]:
    """Of all of its layers."""
    return {m.scale for m in flow.modules() if isinstance(m, AffineCoupling | MaskedConv2d)}


def test_no_scale_comes_close_to_zero_unless_asked_for() -> None:
    for linear in get_args(Linear):
        for scale in scale_functions(image_flow(replace(SMALL, linear=linear), SHAPE)):
            assert float(scale.log_scale(torch.tensor(-1e6))) >= -2.0, (linear, scale)


@pytest.mark.parametrize("name", get_args(ScaleName))
def test_scales_of_masked_convolutions_are_chosen_by_name(name: ScaleName) -> None:
    kinds: dict[ScaleName, type[ScaleFunction]] = {
        "bounded-exp": BoundedExpScale,
        "sigmoid": SigmoidScale,
        "half-range": HalfRangeSigmoidScale,
    }
    config = replace(SMALL, linear="macow", coupling="none", macow_scale=name)
    found = scale_functions(image_flow(config, SHAPE))
    assert {type(scale) for scale in found} == {kinds[name]}


def test_the_released_unit_of_macow_is_initialized_with_the_rest() -> None:
    config = replace(SMALL, linear="macow", macow_form="released", macow_scale="sigmoid")
    flow, x = made(config), images(5)
    assert sum(isinstance(m, ActNorm) for m in flow.modules()) == 2 * (1 + 2)
    z, log_det = flow.bijection(x)
    matrix = jacobian(flow.bijection, x).reshape(5, 16, 16)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix)[1])
    torch.testing.assert_close(flow.bijection.inverse(z), x)
