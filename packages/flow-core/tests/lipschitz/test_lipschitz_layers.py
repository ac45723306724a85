"""Lipschitz layers: effective weights as values, their gradients, spectral state."""

import copy
import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from flow_core.lipschitz import (
    ExactSVD,
    GolubKahan,
    LipschitzConv2d,
    LipschitzLayer,
    LipschitzLinear,
    PowerIteration,
    SpectralMethod,
    effective_weights,
    update_lipschitz,
)
from torch import Tensor, nn
from torch.nn import functional

METHODS: list[SpectralMethod] = [PowerIteration(), PowerIteration(5, 0.0), GolubKahan(), ExactSVD()]


def grown(layer: LipschitzLayer, factor: float = 5.0) -> LipschitzLayer:
    """A layer whose raw norm is far above the coefficient, so that normalisation acts."""
    with torch.no_grad():
        layer.weight.mul_(factor)
    layer.update_lipschitz()
    return layer


def layers() -> list[LipschitzLayer]:
    torch.manual_seed(0)
    return [
        grown(LipschitzLinear(5, 4)).double(),
        grown(LipschitzLinear(3, 6, spectral=GolubKahan(), bias=False)).double(),
        grown(LipschitzConv2d(2, 3, 3, (4, 5))).double(),
        grown(LipschitzConv2d(3, 2, 5, (3, 3))).double(),
        grown(LipschitzConv2d(3, 4, 1, (4, 4))).double(),
    ]


def operator_norm(layer: LipschitzLayer, weight: Tensor) -> Tensor:
    """Dense, differentiable norm of the layer's operator."""
    if not isinstance(layer, LipschitzConv2d) or layer.is_matrix:
        return norm_of(weight.flatten(1))
    side = weight.shape[1] * math.prod(layer.map_size)
    units = torch.eye(side, dtype=weight.dtype).view(side, weight.shape[1], *layer.map_size)
    columns = functional.conv2d(units, weight, padding=weight.shape[-1] // 2).flatten(1)
    return norm_of(columns)


def norm_of(matrix: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(matrix, 2)
    return norm


@pytest.mark.parametrize("index", range(5))
def test_effective_norm_is_the_coefficient_once_converged(index: int) -> None:
    layer = layers()[index]
    layer.update_lipschitz(200)
    weight = layer.effective()[0]
    assert float(operator_norm(layer, weight).detach()) == pytest.approx(layer.coeff, rel=1e-9)
    assert layer.coeff * (1 - 1e-9) <= layer.certificate() <= layer.coeff * (1 + 1e-9)


@pytest.mark.parametrize("index", range(5))
def test_gradient_is_that_of_true_normalisation_once_converged(index: int) -> None:
    layer = layers()[index]
    layer.update_lipschitz(400)
    weight = layer.weight.detach().clone().requires_grad_()
    cotangent = torch.randn_like(weight)
    true = weight * layer.coeff / operator_norm(layer, weight)
    (wanted,) = torch.autograd.grad((true * cotangent).sum(), weight)
    (got,) = torch.autograd.grad((layer.effective()[0] * cotangent).sum(), layer.weight)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("index", range(5))
def test_gradcheck_with_constant_singular_vectors(index: int) -> None:
    layer = layers()[index]

    def effective(weight: Tensor) -> Tensor:
        made: tuple[Tensor, Tensor | None] = torch.func.functional_call(
            _Effective(layer), {"layer.weight": weight}, ()
        )
        return made[0]

    weight = layer.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(effective, (weight,), fast_mode=True)
    assert torch.autograd.gradgradcheck(effective, (weight,), fast_mode=True)


class _Effective(nn.Module):
    def __init__(self, layer: LipschitzLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> tuple[Tensor, Tensor | None]:
        return self.layer.effective()


@pytest.mark.parametrize("index", range(5))
def test_a_weight_below_the_coefficient_is_left_alone(index: int) -> None:
    layer = grown(layers()[index], 1e-3)
    layer.update_lipschitz()
    weight, bias = layer.effective()
    assert torch.equal(weight, layer.weight)
    assert bias is layer.bias


@pytest.mark.parametrize("index", range(5))
def test_only_update_moves_state_and_only_the_spectral_one(index: int) -> None:
    layer = layers()[index]
    before = copy.deepcopy(layer.state_dict())
    layer.effective()
    layer.certificate()
    if isinstance(layer, LipschitzConv2d):
        layer(torch.randn(2, layer.weight.shape[1], *layer.map_size).double())
    unchanged(before, layer, ["weight", "bias", "v", "direction"])
    layer.weight.data.add_(torch.randn_like(layer.weight))
    before = copy.deepcopy(layer.state_dict())
    layer.update_lipschitz()
    unchanged(before, layer, ["weight", "bias"])
    assert not torch.equal(before["direction"], layer.direction)
    assert not torch.equal(before["v"], layer.v)
    assert not layer.direction.requires_grad


def unchanged(before: dict[str, Tensor], layer: LipschitzLayer, names: list[str]) -> None:
    state = layer.state_dict()
    for name in set(names) & set(state):
        assert torch.equal(before[name], state[name]), name


def test_effective_follows_the_grad_mode() -> None:
    layer = layers()[0]
    assert layer.effective()[0].requires_grad
    with torch.no_grad():
        assert not layer.effective()[0].requires_grad


@pytest.mark.parametrize("index", range(5))
def test_state_dict_round_trip(index: int) -> None:
    layer, other = layers()[index], layers()[index]
    layer.weight.data.add_(1.0)
    layer.update_lipschitz()
    assert not torch.equal(other.effective()[0], layer.effective()[0])
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.effective()[0], layer.effective()[0])


def test_forward_is_the_plain_layer_with_the_effective_weight() -> None:
    linear, conv = layers()[0], layers()[2]
    x, maps = torch.randn(7, 5).double(), torch.randn(2, 2, 4, 5).double()
    torch.testing.assert_close(linear(x), functional.linear(x, *linear.effective()))
    torch.testing.assert_close(conv(maps), functional.conv2d(maps, *conv.effective(), padding=1))
    assert conv(maps[:0]).shape == (0, 3, 4, 5)


@pytest.mark.parametrize("method", METHODS)
def test_estimates_of_matrices_never_exceed_the_norm_and_grow(method: SpectralMethod) -> None:
    torch.manual_seed(1)
    layer = LipschitzLinear(30, 20, spectral=method).double()
    layer.weight.data.normal_()
    layer.v.copy_(functional.normalize(torch.randn(30).double(), dim=0))
    assert_estimates_grow(layer, float(torch.linalg.matrix_norm(layer.weight.detach(), 2)))


@pytest.mark.parametrize("method", METHODS[:3])
def test_estimates_of_convolutions_never_exceed_the_norm_and_grow(method: SpectralMethod) -> None:
    torch.manual_seed(1)
    layer = LipschitzConv2d(3, 4, 3, (6, 5), spectral=method).double()
    layer.weight.data.normal_()
    layer.v.copy_(functional.normalize(torch.randn(90).double(), dim=0))
    assert_estimates_grow(layer, float(operator_norm(layer, layer.weight).detach()))


def assert_estimates_grow(layer: LipschitzLayer, true: float) -> None:
    last = 0.0
    for _ in range(12):
        layer.update_lipschitz(6)
        sigma = float((layer.weight * layer.direction).sum().detach())
        assert last * (1 - 1e-12) <= sigma <= true * (1 + 1e-12)
        last = sigma
    assert last > 0.97 * true


def test_golub_kahan_beats_power_iteration_at_equal_products() -> None:
    errors: dict[str, float] = {}
    for name, method in (("power", PowerIteration()), ("krylov", GolubKahan())):
        torch.manual_seed(2)
        layer = LipschitzConv2d(4, 6, 3, (8, 8), spectral=method).double()
        layer.weight.data.normal_()
        layer.v.copy_(functional.normalize(torch.randn(256).double(), dim=0))
        layer.update_lipschitz(8)
        true = float(operator_norm(layer, layer.weight).detach())
        errors[name] = 1 - float((layer.weight * layer.direction).sum().detach()) / true
    assert 0 <= errors["krylov"] < 0.3 * errors["power"]


def count_products(
    monkeypatch: pytest.MonkeyPatch, layer: LipschitzConv2d, act: Callable[[], None]
) -> int:
    """Products with the operator and its adjoint during `act`, counted at the convolutions."""
    counts = [0]
    plain, transposed = functional.conv2d, functional.conv_transpose2d

    def counted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: object, **kwargs: object) -> Tensor:
            counts[0] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(functional, "conv2d", counted(plain))
    monkeypatch.setattr(functional, "conv_transpose2d", counted(transposed))
    act()
    return counts[0]


@pytest.mark.parametrize("method", METHODS[:3])
def test_iterations_count_products(monkeypatch: pytest.MonkeyPatch, method: SpectralMethod) -> None:
    layer = LipschitzConv2d(3, 4, 3, (6, 5), spectral=method)
    assert count_products(monkeypatch, layer, lambda: layer.update_lipschitz(25)) == 50


def test_an_update_costs_its_steps_and_synchronises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = LipschitzConv2d(3, 4, 3, (6, 5), spectral=GolubKahan(7))
    assert count_products(monkeypatch, layer, layer.update_lipschitz) == 15


def test_updating_and_binding_together_equals_one_by_one() -> None:
    torch.manual_seed(3)
    shapes = [(2, 8), (18, 8), (2, 8), (50, 2), (18, 8)]
    model = nn.ModuleList([grown(LipschitzLinear(i, o)) for i, o in shapes])
    model.append(grown(LipschitzConv2d(2, 3, 3, (4, 4))))
    model.append(grown(LipschitzConv2d(2, 3, 3, (4, 4))))
    model.append(grown(LipschitzConv2d(3, 3, 1, (4, 4))))
    twin = copy.deepcopy(model)
    update_lipschitz(model)
    every = [layer for layer in model if isinstance(layer, LipschitzLayer)]
    for layer in twin:
        assert isinstance(layer, LipschitzLayer)
        layer.update_lipschitz()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, twin.state_dict()[name])
    for (weight, bias), layer in zip(effective_weights(every), every, strict=True):
        torch.testing.assert_close(weight, layer.effective()[0])
        assert bias is layer.bias


def test_gradients_through_weights_bound_together() -> None:
    torch.manual_seed(3)
    every = [grown(LipschitzLinear(4, 3)).double() for _ in range(3)]
    together = sum((w**3).sum() for w, _ in effective_weights(every))
    alone = sum((layer.effective()[0] ** 3).sum() for layer in every)
    weights = [layer.weight for layer in every]
    assert isinstance(together, Tensor)
    assert isinstance(alone, Tensor)
    got, wanted = torch.autograd.grad(together, weights), torch.autograd.grad(alone, weights)
    torch.testing.assert_close(got, wanted)


def test_a_zero_weight_stays_finite() -> None:
    for layer in layers():
        layer.weight.data.zero_()
        layer.update_lipschitz()
        assert bool(layer.direction.isfinite().all())
        assert torch.equal(layer.effective()[0], layer.weight)
        assert layer.certificate() == 0.0


def test_initial_weights_follow_the_published_recipe() -> None:
    torch.manual_seed(0)
    layer = LipschitzLinear(400, 300)
    bound = 1 / math.sqrt(400)
    assert layer.bias is not None
    assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert 0.9 * bound < float(layer.bias.detach().abs().max()) <= bound
    small = LipschitzLinear(400, 300, zero_init=True)
    assert float(small.weight.detach().abs().max()) <= bound / 1000


def test_no_update_uses_random_numbers() -> None:
    every = nn.ModuleList(layers())
    state = torch.get_rng_state()
    update_lipschitz(every)
    for layer in layers_of(every):
        layer.certificate()
    assert torch.equal(torch.get_rng_state(), state)


def layers_of(model: nn.ModuleList) -> list[LipschitzLayer]:
    return [layer for layer in model if isinstance(layer, LipschitzLayer)]


@pytest.mark.parametrize("coeff", [-0.5, 0.0, 1.0, 1.5, math.nan])
def test_coefficients_outside_the_open_unit_interval_are_refused(coeff: float) -> None:
    with pytest.raises(ValueError, match="expected 0 < coeff < 1"):
        LipschitzLinear(2, 2, coeff=coeff)
    with pytest.raises(ValueError, match="expected 0 < coeff < 1"):
        LipschitzConv2d(2, 2, 3, (4, 4), coeff=coeff)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LipschitzLinear(-1, 2), "in_features >= 1, got -1"),
        (lambda: LipschitzLinear(1, 0), "out_features >= 1, got 0"),
        (lambda: LipschitzConv2d(2, 2, 3, (0, 4)), "height >= 1, got 0"),
        (lambda: LipschitzConv2d(2, -2, 3, (4, 4)), "out_channels >= 1, got -2"),
        (lambda: LipschitzConv2d(2, 2, 4, (4, 4)), "odd kernel_size, got 4"),
        (lambda: LipschitzConv2d(2, 2, 3, (4, 4), spectral=ExactSVD()), "use GolubKahan"),
        (lambda: PowerIteration(0), "steps >= 1, got 0"),
        (lambda: GolubKahan(-1), "steps >= 1, got -1"),
        (lambda: LipschitzLinear(2, 2).update_lipschitz(0), "iterations >= 1, got 0"),
        (lambda: LipschitzConv2d(2, 2, 3, (4, 4))(torch.zeros(1, 2, 5, 4)), r"got \(5, 4\)"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", [ExactSVD(), GolubKahan()])
def test_weights_that_are_not_finite_are_named_and_leave_the_state(method: SpectralMethod) -> None:
    layer = LipschitzLinear(3, 2, spectral=method)
    before = layer.v.clone()
    layer.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="finite weights"):
        layer.update_lipschitz()
    assert torch.equal(layer.v, before)


def test_weights_that_are_no_numbers_are_named() -> None:
    model = nn.Sequential(LipschitzLinear(2, 3), LipschitzLinear(3, 2))
    with torch.no_grad():
        cast(LipschitzLinear, model[1]).weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"update_lipschitz: the weights of 1 are not finite"):
        update_lipschitz(model)
