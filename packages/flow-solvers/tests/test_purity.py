"""Callables that are no functions, or have weights that nobody listed."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from flow_solvers import Broyden, FunctionMap, OnFailure, Picard, resolvent
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear
from torch.nn.utils.parametrizations import spectral_norm

DIM = 6


def points(batch: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(batch, DIM, generator=torch.Generator().manual_seed(seed))


def net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
    with torch.no_grad():
        for layer in (first, last):
            layer.weight *= 0.5 / torch.linalg.matrix_norm(layer.weight, 2)
    return nn.Sequential(first, nn.Tanh(), *layers, last)


def normalised() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(DIM, DIM)
    with torch.no_grad():
        layer.weight *= 3.0
    return nn.Sequential(spectral_norm(layer), nn.Tanh()).train()


def slowly_normalised() -> nn.Module:
    """Two singular values next to each other, of which the power iteration takes long to choose."""
    torch.manual_seed(0)
    layer = nn.Linear(DIM, DIM)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 2.9, 2.8, 2.7, 2.6, 2.5])))
    return nn.Sequential(spectral_norm(layer, n_power_iterations=1), nn.Tanh()).train()


class Halved(nn.Module):
    """Half of a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, w: Tensor) -> Tensor:
        halved: Tensor = 0.5 * self.inner(w)
        return halved

    def method(self, w: Tensor) -> Tensor:
        return self.forward(w)


def dropped() -> nn.Module:
    return net(nn.Dropout(0.2))


def batch_normalised() -> nn.Module:
    return net(nn.BatchNorm1d(DIM))


# The ways to hand a module in.
WAYS: dict[str, Callable[[nn.Module], FunctionMap]] = {
    "module": lambda module: FunctionMap(Halved(module)),
    "method": lambda module: FunctionMap(Halved(module).method),
    "closure": lambda module: FunctionMap(lambda w: 0.5 * module(w)),
    "partial": lambda module: FunctionMap(partial(functional_call, Halved(module), {})),
    "negative": lambda module: -FunctionMap(lambda w: -0.5 * module(w)),
    "listed": lambda module: listed(Halved(module)),
    "dict": lambda module: in_a_dict(Halved(module)),
    "object": lambda module: FunctionMap(Holding([Halved(module)])),
    "hidden": lambda module: hidden(Halved(module)),
}


class Holding:
    """No module itself."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules

    def __call__(self, w: Tensor) -> Tensor:
        value: Tensor = self.modules[0](w)
        return value


class Slots:
    """Has no attributes that can be listed."""

    __slots__ = ("module",)

    def __init__(self, module: nn.Module) -> None:
        self.module = module


def in_a_dict(module: nn.Module) -> FunctionMap:
    modules = {"inner": module}

    def call(w: Tensor) -> Tensor:
        value: Tensor = modules["inner"](w)
        return value

    return FunctionMap(call)


def hidden(module: nn.Module) -> FunctionMap:
    """Where nobody looks for modules."""
    slots = Slots(module)

    def call(w: Tensor) -> Tensor:
        value: Tensor = slots.module(w)
        return value

    return FunctionMap(call)


def listed(module: nn.Module) -> FunctionMap:
    """All parameters and buffers are tensors of the map."""
    named = dict(module.named_parameters()) | dict(module.named_buffers())

    def call(w: Tensor, *tensors: Tensor) -> Tensor:
        value: Tensor = functional_call(module, dict(zip(named, tensors, strict=True)), (w,))
        return value

    return FunctionMap(call, tuple(named.values()))


@pytest.mark.filterwarnings("ignore:G depends on a tensor")
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [normalised, dropped, batch_normalised])
def test_what_changes_or_mixes_samples_is_refused_with_the_remedy(
    make: Callable[[], nn.Module], way: str, graph: bool
) -> None:
    module = make()
    if way == "hidden" and make is normalised:
        module = slowly_normalised()  # a power iteration that converges in time does no harm
    bound = WAYS[way](module)
    with torch.set_grad_enabled(graph):
        with pytest.raises(ValueError, match=r"call eval\(\) first"):
            resolvent(bound, points(), solver=Broyden(budget=60))
        module.eval()
        assert resolvent(bound, points()).all_converged


class Counting(nn.Module):
    """Counts its calls, which changes no value."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, w: Tensor) -> Tensor:
        self.calls += 1
        return torch.sin(w)


COUNTING = Counting()


def by_global(w: Tensor) -> Tensor:
    value: Tensor = 0.5 * COUNTING(w)
    return value


@pytest.mark.parametrize("way", [*(way for way in WAYS if way != "hidden"), "global"])
def test_a_changed_buffer_is_found_where_no_value_shows_it(way: str) -> None:
    bound = FunctionMap(by_global) if way == "global" else WAYS[way](Counting())
    with pytest.raises(ValueError, match="changed its own tensors"):
        resolvent(bound, points())


@pytest.mark.parametrize("on_failure", ["raise", "return"])
def test_noise_is_found_out_whatever_becomes_of_the_solve(on_failure: OnFailure) -> None:
    noisy = FunctionMap(lambda w: 0.5 * torch.sin(w) + 1e-3 * torch.randn_like(w))
    with pytest.raises(ValueError, match="random numbers are drawn before the solve"):
        resolvent(noisy, points(), solver=Picard(budget=20), on_failure=on_failure)


@pytest.mark.parametrize("batch", [1, 2, 3, 40])
def test_samples_that_see_each_other_are_refused(batch: int) -> None:
    mixed = FunctionMap(lambda w: 0.5 * torch.sin(w - w.mean(0)))
    if batch == 1:
        assert resolvent(mixed, points(batch)).all_converged
        return
    with pytest.raises(ValueError, match="sample by sample"):
        resolvent(mixed, points(batch))


def test_a_context_that_is_not_listed_is_refused() -> None:
    context = points(seed=1)
    with pytest.raises(ValueError, match="listed in per_sample="):
        resolvent(FunctionMap(lambda w: 0.5 * torch.sin(w + context)), points())
    bound = FunctionMap(lambda w, context: 0.5 * torch.sin(w + context), (), (context,))
    assert resolvent(bound, points()).all_converged


def test_an_honest_failure_stays_one() -> None:
    expanding = FunctionMap(lambda w: 3.0 * w)
    solution = resolvent(expanding, points(), solver=Picard(budget=5), on_failure="return")
    assert not solution.all_converged


def test_an_empty_batch_has_nothing_to_find() -> None:
    assert resolvent(FunctionMap(lambda w: 0.5 * w), points(0)).all_converged


LOSES = "G depends on a tensor that requires a gradient"


@pytest.mark.parametrize("way", [way for way in WAYS if way != "listed"])
def test_a_weight_that_is_not_listed_is_told_of(way: str) -> None:
    bound = WAYS[way](net())
    with pytest.warns(UserWarning, match=LOSES):
        resolvent(bound, points())
    with pytest.warns(UserWarning, match=LOSES):
        resolvent(bound, points().requires_grad_())


def test_a_tensor_that_is_not_listed_is_told_of() -> None:
    matrix = (0.1 * points(DIM)).requires_grad_()
    with pytest.warns(UserWarning, match=LOSES):
        resolvent(FunctionMap(lambda w: linear(w, matrix)), points())
    with pytest.warns(UserWarning, match=LOSES):
        resolvent(FunctionMap(lambda w: linear(w, 2 * matrix)), points(3))


def told_of_nothing(bound: FunctionMap, x: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolvent(bound, x)


def test_nobody_is_told_where_nothing_is_lost() -> None:
    module = net()
    told_of_nothing(listed(module), points())
    with torch.no_grad():
        told_of_nothing(FunctionMap(module), points())
    told_of_nothing(FunctionMap(module.requires_grad_(requires_grad=False)), points())


def test_a_gradient_inside_of_the_map_is_not_a_lost_one() -> None:
    def slope(w: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = w if w.requires_grad else w.detach().requires_grad_()
            return torch.autograd.grad(-0.5 * leaf.cos().sum(), leaf, create_graph=True)[0]

    told_of_nothing(FunctionMap(slope), points())


def test_the_check_costs_one_evaluation_on_a_few_samples() -> None:
    sizes: list[int] = []

    def counted(w: Tensor) -> Tensor:
        sizes.append(len(w))
        return 0.5 * torch.sin(w)

    solution = resolvent(FunctionMap(counted), points(100))
    assert len(sizes) == solution.calls + 1
    assert sizes[-1] <= 16
