"""Passes that keep no activations: gradients, memory, what is replayed, what is refused."""

import gc
import math
import weakref
from collections.abc import Callable
from functools import partial
from inspect import unwrap
from itertools import accumulate
from typing import Any, cast

import pytest
import torch
from flow_core import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Chain,
    Checkpointed,
    Conv1x1,
    DriftError,
    DriftWarning,
    FlowConfig,
    Invert,
    MemoryPolicy,
    Reversible,
    Settings,
    SigmoidScale,
    SmoothLeakyReLU,
    Squeeze,
    image_flow,
)
from flow_core.memory.drift import Fingerprint
from torch import Tensor, nn
from torch.func import functional_call

POLICIES: dict[str, MemoryPolicy] = {
    "checkpointed": Checkpointed(),
    "in fours": Checkpointed(4),
    "reversible": Reversible(),
}
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-10}


def filled(model: nn.Module, scale: float = 0.02) -> nn.Module:
    """Away from the initial point, with statistics."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data += scale * torch.randn(p.shape, generator=generator).to(p)
    for module in model.modules():
        if isinstance(module, ActNorm):
            module.initialized.fill_(True)
    return model


def steps(count: int, width: int = 8) -> list[Bijection]:
    """Those of Glow on twelve channels."""
    torch.manual_seed(0)
    return [
        layer
        for _ in range(count)
        for layer in (ActNorm(12), Conv1x1(12), AffineCoupling.convolutional(12, width))
    ]


def glow(count: int, width: int = 8) -> Chain:
    return cast(Chain, filled(Chain([Squeeze(), *steps(count, width)])))


def nested() -> Bijection:
    pairs = [Chain(steps(1)), Invert(Chain(steps(1))), Invert(Conv1x1(12)), Chain(steps(2))]
    return cast(Bijection, filled(Chain([Squeeze(), Chain(pairs), ActNorm(12)])))


def multiscale() -> Bijection:
    config = FlowConfig(
        architecture="glow",
        linear="conv1x1",
        activation="none",
        coupling="affine",
        coupling_width=8,
        actnorm=True,
        num_blocks=2,
        block_size=2,
        split_prior=True,
    )
    return cast(Bijection, filled(image_flow(config, (3, 8, 8)).bijection))


MODELS: dict[str, Callable[[], Bijection]] = {
    "glow": lambda: glow(4),
    "nested": nested,
    "multiscale": multiscale,
}


def images(dtype: torch.dtype = torch.float64, count: int = 4, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (0.2 + 0.6 * torch.rand(count, 3, side, side, generator=generator)).to(dtype)


def loss_of(y: Tensor, log_det: Tensor) -> Tensor:
    return y.sin().sum() + (log_det * torch.arange(1, len(y) + 1)).sum()


def gradients(
    model: nn.Module, x: Tensor, memory: MemoryPolicy | None, **options: Any
) -> list[Tensor]:
    """Outputs, and gradients to the input and to all parameters."""
    point = x.clone().requires_grad_()
    y, log_det = model(point, using=Settings(memory=memory, **options))
    inputs = [point, *(p for p in model.parameters() if p.requires_grad)]
    found = torch.autograd.grad(loss_of(y, log_det), inputs, materialize_grads=True)
    return [y.detach(), log_det.detach(), *found]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    """Relative to the norm of each."""
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= CLOSE[other.dtype] * other.norm()


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_kept_activations(
    name: str, policy: str, dtype: torch.dtype
) -> None:
    model, x = MODELS[name]().to(dtype), images(dtype)
    assert_close(gradients(model, x, POLICIES[policy]), gradients(model, x, None))


def test_gradients_of_48_steps_are_those_of_kept_activations() -> None:
    model, x = glow(48).double(), images(count=2)
    assert_close(gradients(model, x, Reversible()), gradients(model, x, None))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_the_inverse_direction_is_trained_as_well(name: str, policy: str) -> None:
    model = MODELS[name]().double()
    z = model.transform(images()).detach()
    back = Invert(model)
    assert_close(gradients(back, z, POLICIES[policy]), gradients(back, z, None))


# Memory


def allocated(run: Callable[[], object]) -> int:
    """Bytes that the allocator had given out at most, beyond those before."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    events = cast(Any, profile).kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return cast(int, max(accumulate(change for _, change in changes)))


def peak(model: nn.Module, x: Tensor, memory: MemoryPolicy | None) -> int:
    """Bytes at most in a forward and a backward pass, without gradients of weights."""
    model.zero_grad()

    def step() -> None:
        torch.autograd.backward(loss_of(*model(x, using=Settings(memory=memory))))

    return allocated(step) - sum(p.nbytes for p in model.parameters())


def test_reversible_memory_does_not_depend_on_depth() -> None:
    x = images(torch.float32, count=16, side=16)
    shallow, deep = glow(6), glow(48)
    everything = peak(deep, x, None)
    of_inputs = peak(deep, x, Checkpointed())
    last = [peak(model, x, Reversible()) for model in (shallow, deep)]
    # Of every layer stay a log-determinant and a fingerprint of a sample.
    assert last[1] < 1.2 * last[0]
    assert everything > 2 * of_inputs > 20 * last[1]


def test_a_pass_without_a_graph_keeps_nothing() -> None:
    model, x = glow(12), images(torch.float32, side=16)
    with torch.no_grad():
        plain = allocated(lambda: model(x))
        found = allocated(lambda: model(x, using=Settings(memory=Reversible())))
    assert found == plain


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_of_a_pass_outlives_it(policy: str) -> None:
    model, x = glow(2), images(torch.float32)
    gc.disable()
    try:
        point = x.clone().requires_grad_()
        y, log_det = model(point, using=Settings(memory=POLICIES[policy]))
        output = weakref.ref(y)
        loss = loss_of(y, log_det)
        torch.autograd.backward(loss)
        del point, y, log_det
        assert output() is None
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.backward(loss)
    finally:
        gc.enable()


# Derivatives


@pytest.mark.parametrize("policy", POLICIES)
def test_a_graph_that_is_kept_can_be_gone_through_again(policy: str) -> None:
    model, x = glow(2).double(), images()
    expected = gradients(model, x, None)[3:]
    y, log_det = model(x, using=Settings(memory=POLICIES[policy]))
    for _ in range(2):
        by_part = [
            torch.autograd.grad(part, list(model.parameters()), retain_graph=True)
            for part in (
                loss_of(y, torch.zeros_like(log_det)),
                loss_of(torch.zeros_like(y), log_det),
            )
        ]
        assert_close([y + z for y, z in zip(*by_part, strict=True)], expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_second_derivatives_are_those_of_kept_activations(policy: str) -> None:
    model, x = glow(2).double(), images()
    found: list[list[Tensor]] = []
    for memory in (None, POLICIES[policy]):
        point = x.clone().requires_grad_()
        loss = loss_of(*model(point, using=Settings(memory=memory)))
        first = torch.autograd.grad(loss, [point, *model.parameters()], create_graph=True)
        penalty = torch.stack([g.square().sum() for g in first]).sum()
        found.append(list(torch.autograd.grad(penalty, [point, *model.parameters()])))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("policy", POLICIES)
def test_frozen_layers_pass_gradients_on_and_have_none(policy: str) -> None:
    model, x = glow(4).double(), images()
    for layer in list(model)[4:8]:
        layer.requires_grad_(False)
    assert_close(gradients(model, x, POLICIES[policy]), gradients(model, x, None))
    torch.autograd.backward(loss_of(*model(x, using=Settings(memory=POLICIES[policy]))))
    has = [p.grad is not None for p in model.parameters()]
    assert has == [p.requires_grad for p in model.parameters()]


def test_layers_without_a_gradient_are_not_computed_again() -> None:
    model, x = glow(4), images(torch.float32)
    for layer in list(model)[:7]:
        layer.requires_grad_(False)
    seen: list[int] = []

    def see(i: int, *_: object) -> None:
        seen.append(i)

    for i, layer in enumerate(model):
        layer.register_forward_hook(partial(see, i))
    loss = loss_of(*model(x, using=Settings(memory=Reversible())))
    assert seen == list(range(13))
    seen.clear()
    torch.autograd.backward(loss)
    # Back; and there again for the graph, which ends before the hook.
    assert seen == [12, 11, 10, 9, 8, 7]


# What is replayed


def noisy() -> Chain:
    """Couplings whose nets draw dropout and move statistics."""
    torch.manual_seed(0)
    nets = [
        nn.Sequential(
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.Dropout(0.3),
            nn.Tanh(),
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 12, 1)),
        )
        for _ in range(3)
    ]
    layers = [layer for net in nets for layer in (AffineCoupling(net), Conv1x1(12))]
    return cast(Chain, filled(Chain([Squeeze(), *layers]), 0.1).double().train())


@pytest.mark.parametrize("policy", POLICIES)
def test_randomness_is_replayed_and_statistics_move_once(policy: str) -> None:
    found: list[list[Tensor]] = []
    for memory in (None, POLICIES[policy]):
        model = noisy()
        torch.manual_seed(3)
        gradient = gradients(model, images(), memory)
        found.append([*gradient, *model.buffers(), torch.get_rng_state()])
    assert_close(found[1][:-1], [t.double() for t in found[0][:-1]])
    assert torch.equal(found[1][-1], found[0][-1])


@pytest.mark.parametrize("policy", POLICIES)
def test_what_happens_between_the_passes_does_not_matter(policy: str) -> None:
    found: list[list[Tensor]] = []
    for memory in (None, POLICIES[policy]):
        model, x = noisy(), images()
        torch.manual_seed(3)
        loss = loss_of(*model(x, using=Settings(memory=memory)))
        torch.manual_seed(4)
        if memory is not None:
            model.eval()
        found.append(list(torch.autograd.grad(loss, list(model.parameters()))))
        assert model.training == (memory is None)
    assert_close(found[1], found[0])


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_of_functional_call_are_those_that_are_computed_with_again(policy: str) -> None:
    model, x = glow(2).double(), images()
    others = {name: (1.1 * p).detach() for name, p in model.named_parameters()}
    own = dict(model.named_parameters())
    found: list[list[Tensor]] = []
    for memory in (None, POLICIES[policy]):
        given = {name: t.clone().requires_grad_() for name, t in others.items()}
        using = {"using": Settings(memory=memory)}
        outputs = cast("tuple[Tensor, Tensor]", functional_call(model, given, (x,), using))
        found.append(list(torch.autograd.grad(loss_of(*outputs), list(given.values()))))
    assert_close(found[1], found[0])
    assert all(p is own[name] for name, p in model.named_parameters())


@pytest.mark.parametrize("policy", POLICIES)
def test_autocast_lowers_no_precision(policy: str) -> None:
    model, x = glow(4), images(torch.float32)
    expected = gradients(model, x, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(model, x, POLICIES[policy])
    assert_close(found, expected)


def _doubled(gradient: Tensor) -> Tensor:
    return 2 * gradient


@pytest.mark.parametrize("policy", POLICIES)
def test_hooks_of_gradients_run_once(policy: str) -> None:
    model, x = glow(2).double(), images()
    for p in model.parameters():
        p.register_hook(_doubled)  # type: ignore[no-untyped-call]  # as torch has it
    plain = gradients(glow(2).double(), x, None)
    found = gradients(model, x, POLICIES[policy])
    assert_close(found[3:], [2 * g for g in plain[3:]])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(5,), (0,), (0, 3), (5, 0)], ids=str)
def test_scalar_events_and_empty_batches(policy: str, shape: tuple[int, ...]) -> None:
    model = Chain([SmoothLeakyReLU(), SmoothLeakyReLU()])
    x = torch.linspace(-2, 2, math.prod(shape)).view(shape)
    found, expected = (gradients(model, x, memory) for memory in (POLICIES[policy], None))
    assert_close(found, expected)


# What is refused


def test_weights_that_moved_between_the_passes_are_an_error() -> None:
    model, x = glow(2), images(torch.float32)
    loss = loss_of(*model(x, using=Settings(memory=Reversible())))
    torch.autograd.backward(loss, retain_graph=True)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    with pytest.raises(RuntimeError, match="call backward before the step of the optimizer"):
        torch.autograd.backward(loss)


def test_an_output_that_was_changed_in_place_is_an_error() -> None:
    model, x = glow(2), images(torch.float32)
    y, log_det = model(x, using=Settings(memory=Reversible()))
    y.mul_(2)
    with pytest.raises(RuntimeError, match=r"the output of layers\.6 as the forward pass left it"):
        torch.autograd.backward(loss_of(y, log_det))


def exploding(log_scale: float) -> Chain:
    """Its sixth layer makes nearly nothing of half of the channels."""
    model = glow(4).float()
    net = nn.Conv2d(6, 12, 1)
    with torch.no_grad():
        net.weight.zero_()
        cast(Tensor, net.bias).fill_(log_scale)
    broken = AffineCoupling(net, SigmoidScale())
    return Chain([*list(model)[:6], broken, *list(model)[7:]])


@pytest.mark.parametrize(("log_scale", "broken"), [(-30.0, 0), (-200.0, 4)])
def test_a_model_that_loses_its_input_is_told_by_name(log_scale: float, broken: int) -> None:
    """What a small scale leaves drowns in the rounding of the mixing behind it."""
    model, x = exploding(log_scale), images(torch.float32)
    loss = loss_of(*model(x, using=Settings(memory=Reversible())))
    told = rf"the inverse of layers\.6 .* 4 of 4 samples are beyond it, and of these {broken} not"
    with pytest.raises(DriftError, match=told):
        torch.autograd.backward(loss)


def test_who_wants_gradients_all_the_same_is_warned() -> None:
    model, x = exploding(-30.0), images(torch.float32)
    loss = loss_of(*model(x, using=Settings(memory=Reversible(on_drift="warn"))))
    with pytest.warns(DriftWarning, match=r"the inverse of layers\.6"):
        torch.autograd.backward(loss)
    loss = loss_of(*model(x, using=Settings(memory=Reversible(tolerance=None))))
    torch.autograd.backward(loss)


def test_bad_policies_are_refused() -> None:
    for make in (
        lambda: Checkpointed(0),
        lambda: Reversible(check_every=0),
        lambda: Reversible(tolerance=0.0),
        lambda: Reversible(tolerance=math.nan),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()
    with pytest.raises(ValueError, match='"raise" or "warn"'):
        unwrap(Reversible.__init__)(Reversible(), on_drift="stop")
    with pytest.raises(TypeError, match="expected memory to be Checkpointed"):
        unwrap(Settings.__init__)(Settings(), memory=Reversible)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_hides_no_drift_of_the_others(broken: float) -> None:
    x = torch.ones(4, 6)
    x[0, 0] = broken
    moved = x.clone()
    moved[2] *= 3
    distances = Fingerprint.of(x).distances(moved)
    assert distances[0].isnan()
    assert torch.allclose(distances[1:], torch.tensor([0.0, 2.0, 0.0]))
