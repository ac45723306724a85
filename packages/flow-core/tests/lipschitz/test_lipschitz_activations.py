"""Activations: bounds against dense grids, slopes against autograd, safety at extremes."""

from inspect import unwrap
from typing import Any

import pytest
import torch
from flow_core.lipschitz import (
    ACTIVATIONS,
    Activation,
    CPila,
    CReLU,
    FullSort,
    LipSwish,
    MaxMin,
    ReLU,
    SortingActivation,
    make_activation,
)
from torch import Tensor

SORTING = {"fullsort", "maxmin"}
SLOPED = sorted(set(ACTIVATIONS) - SORTING)
SMOOTH = sorted(set(SLOPED) - {"crelu", "elu", "lcube", "relu", "selu"})
TIGHTNESS = {"alclipsilu": 1e-6, "clipswish": 1e-6, "cpila": 1e-6, "lipswish": 1e-6}


def made(name: str) -> Activation:
    return make_activation(name).double()


def grid() -> Tensor:
    inner = torch.linspace(-4.0, 4.0, 400_001, dtype=torch.float64)
    outer = torch.linspace(-40.0, 40.0, 100_001, dtype=torch.float64)
    return torch.cat((inner, outer)).unsqueeze(1)


def speed(activation: Activation, a: Tensor) -> Tensor:
    slopes = activation.value_and_slope(a, 1)[1]
    norms: Tensor = torch.linalg.vector_norm(slopes, dim=1)
    return norms


def scattered(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", SLOPED)
@pytest.mark.parametrize("shift", [-1.5, 0.0, 2.0])
def test_the_lipschitz_constant_holds_and_is_tight(name: str, shift: float) -> None:
    activation = made(name)
    with torch.no_grad():
        for parameter in activation.parameters():
            parameter.add_(shift)
        fastest = float(speed(activation, grid()).max())
    assert fastest <= activation.lipschitz
    if name != "leakylswish":  # its bound holds for every mixture, and is reached in the limit
        assert fastest >= activation.lipschitz - TIGHTNESS.get(name, 1e-3)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_difference_quotients_keep_the_bound(name: str) -> None:
    activation = made(name)
    a, b = scattered(2000, 4) * 2, scattered(2000, 4).flip(0) * 2
    ratio = torch.linalg.vector_norm(activation(a) - activation(b), dim=1)
    ratio = ratio / torch.linalg.vector_norm(a - b, dim=1)
    assert float(ratio.max().detach()) <= activation.lipschitz + 1e-12


@pytest.mark.parametrize("name", SLOPED)
@pytest.mark.parametrize("dim", [1, -1, 2])
def test_slope_is_the_derivative_of_each_output_channel(name: str, dim: int) -> None:
    activation = made(name)
    a = scattered(3, 4, 5).requires_grad_()
    value, slope = activation.value_and_slope(a, dim)
    assert value.shape == slope.shape
    assert value.shape[dim] == activation.expansion * a.shape[dim]
    assert torch.equal(value, activation(a, dim))
    for value_part, slope_part in zip(
        value.chunk(activation.expansion, dim), slope.chunk(activation.expansion, dim), strict=True
    ):
        (wanted,) = torch.autograd.grad(value_part.sum(), a, retain_graph=True, allow_unused=True)
        torch.testing.assert_close(slope_part, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SMOOTH)
def test_value_and_slope_are_twice_differentiable_in_inputs_and_parameters(name: str) -> None:
    activation = made(name)
    params = [p.detach().requires_grad_() for p in activation.parameters_tuple()]

    def both(a: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        return activation.value_and_slope(a, 1, params)

    inputs = (scattered(2, 3).requires_grad_(), *params)
    assert torch.autograd.gradcheck(both, inputs)
    assert torch.autograd.gradgradcheck(both, inputs)


@pytest.mark.parametrize("name", ["elu", "lcube", "selu"])
def test_slopes_of_piecewise_activations_are_differentiable(name: str) -> None:
    activation = made(name)
    a = scattered(4, 3).requires_grad_()

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return activation.value_and_slope(x, 1)

    assert torch.autograd.gradcheck(both, (a,))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_parameters_can_be_passed_as_values(name: str) -> None:
    activation, other = made(name), made(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.7)
    assert len(list(activation.parameters())) == len(activation.parameters_tuple())
    a = scattered(2, 4)
    wanted = other.value_and_slope(a, 1)
    got = activation.value_and_slope(a, 1, other.parameters_tuple())
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    torch.testing.assert_close(activation.value(a, 1, other.parameters_tuple()), wanted[0])


@pytest.mark.parametrize("name", SLOPED)
def test_extreme_inputs_give_finite_values_slopes_and_gradients(name: str) -> None:
    activation = make_activation(name)
    a = torch.tensor([[-1e30, -1e4, -40.0, -0.0, 0.0, 20.0, 1e4, 1e30]]).T.requires_grad_()
    value, slope = activation.value_and_slope(a, 1)
    (gradient,) = torch.autograd.grad((value.sum() * 1e-30 + slope.sum()), a)
    assert all(bool(t.isfinite().all()) for t in (value, slope, gradient))


@pytest.mark.parametrize("name", SLOPED)
def test_float32_agrees_with_float64(name: str) -> None:
    single, double = make_activation(name), made(name)
    a = scattered(50, 4) * 3
    for got, wanted in zip(
        single.value_and_slope(a.float(), 1), double.value_and_slope(a, 1), strict=True
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, rtol=2e-6, atol=2e-6)


def test_cpila_values_from_the_formula() -> None:
    a = torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64)
    t = torch.tensor([-0.2, -1.2], dtype=torch.float64)
    low, far = ((12.5 * t**3 - 5 * t**2 + t) * torch.exp(5 * t)).tolist()
    wanted = torch.tensor([[low, low], [0.8, far], [far, 0.8]], dtype=torch.float64) / 1.06
    torch.testing.assert_close(CPila()(a), wanted)


@pytest.mark.parametrize(("kind", "expansion"), [(ReLU, 1), (CReLU, 2)])
def test_rectifiers_have_slope_zero_at_zero(kind: type[Activation], expansion: int) -> None:
    assert torch.equal(kind().value_and_slope(torch.zeros(1, 1), 1)[1], torch.zeros(1, expansion))


@pytest.mark.parametrize("activation", [FullSort(), MaxMin()])
@pytest.mark.parametrize("dim", [1, 2, -1])
def test_sorting_activations_permute(activation: SortingActivation, dim: int) -> None:
    a = scattered(3, 4, 6)
    value, order = activation.value_and_slope(a, dim)
    assert torch.equal(value, a.gather(dim, order))
    channels = torch.arange(a.shape[dim]).view([-1 if d == dim % 3 else 1 for d in range(3)])
    assert torch.equal(order.sort(dim)[0], channels.expand(3, 4, 6))
    assert torch.equal(value.sort(dim)[0], a.sort(dim)[0])
    assert torch.equal(activation(a, dim), value)


def test_max_min_pairs_neighbours() -> None:
    assert MaxMin()(torch.tensor([[1.0, 2.0, 6.0, 5.0]])).tolist() == [[2.0, 6.0, 1.0, 5.0]]


def test_max_min_refuses_odd_channels() -> None:
    with pytest.raises(ValueError, match="even number of channels, got 3"):
        MaxMin()(torch.zeros(2, 3))


def test_an_unknown_name_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean 'cpila'"):
        make_activation("cpyla")


def jacobian(activation: Activation, a: Tensor) -> Tensor:
    """d output channel / d input channel of each pixel of `(batch, channels, pixels)`, dense."""

    def value(pixel: Tensor) -> Tensor:
        return activation.value(pixel, 0)

    pixels = a.movedim(1, 2)
    rows: list[Tensor] = [torch.func.jacrev(value)(pixel) for pixel in pixels.flatten(0, 1)]
    return torch.stack(rows).view(*pixels.shape[:2], -1, a.shape[1])


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_products_are_those_with_the_dense_jacobian(name: str) -> None:
    activation, a = made(name), scattered(3, 4, 5)
    dense = jacobian(activation, a)
    slope = activation.value_and_slope(a, -2)[1]
    t, g = scattered(2, 3, 4, 5), scattered(2, 3, 4 * activation.expansion, 5).flip(0)
    pushed, pulled = activation.push(t, slope, -2), activation.pull(g, slope, 4, -2)
    torch.testing.assert_close(pushed, torch.einsum("bnkj,pbjn->pbkn", dense, t))
    torch.testing.assert_close(pulled, torch.einsum("bnkj,pbkn->pbjn", dense, g))
    torch.testing.assert_close((pushed * g).sum(), (t * pulled).sum())
    matrix = scattered(4 * activation.expansion, 4)
    wanted = torch.einsum("bnkj,kj->b", dense, matrix)
    torch.testing.assert_close(activation.trace(slope, matrix), wanted)
    torch.testing.assert_close(activation.trace(slope[..., 0], matrix).shape, wanted.shape)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_slopes_are_broadcast_over_dimensions_of_length_one(name: str) -> None:
    activation, a = made(name), scattered(4, 5)
    slope = activation.value_and_slope(a, 0)[1].unsqueeze(1)
    t, g = scattered(4, 3, 5), scattered(4 * activation.expansion, 3, 5)
    pushed, pulled = activation.push(t, slope, -3), activation.pull(g, slope, 4, -3)
    for i in range(3):
        alone = slope[:, 0]
        torch.testing.assert_close(pushed[:, i], activation.push(t[:, i], alone, -2))
        torch.testing.assert_close(pulled[:, i], activation.pull(g[:, i], alone, 4, -2))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_tangents_are_broadcast_over_samples(name: str) -> None:
    activation, a = made(name), scattered(3, 4)
    slope = activation.value_and_slope(a, 1)[1]
    units, counits = torch.eye(4).double(), torch.eye(4 * activation.expansion).double()
    dense = jacobian(activation, a.unsqueeze(-1)).squeeze(1)
    pushed = activation.push(units.unsqueeze(1), slope, -1)
    pulled = activation.pull(counits.unsqueeze(1), slope, 4, -1)
    torch.testing.assert_close(pushed, dense.permute(2, 0, 1))
    torch.testing.assert_close(pulled, dense.transpose(0, 1))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_value_and_products_are_differentiable(name: str) -> None:
    activation, a = made(name), scattered(2, 4).requires_grad_()
    write = 4 * activation.expansion
    slope = activation.value_and_slope(a.detach(), 1)[1].detach()
    t, g = scattered(3, 2, 4).requires_grad_(), scattered(3, 2, write).requires_grad_()
    matrix = scattered(write, 4).requires_grad_()

    def value(a: Tensor) -> Tensor:
        return activation.value(a, 1)

    def products(t: Tensor, g: Tensor, matrix: Tensor) -> tuple[Tensor, ...]:
        pulled = activation.pull(g, slope, 4, -1)
        return activation.push(t, slope, -1), pulled, activation.trace(slope, matrix)

    assert torch.autograd.gradcheck(value, (a,))
    assert torch.autograd.gradcheck(products, (t, g, matrix))
    assert torch.autograd.gradgradcheck(products, (t, g, matrix))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_value_and_products_are_vectorised(name: str) -> None:
    activation, a, t = made(name), scattered(3, 2, 4), scattered(3, 2, 4).flip(0)

    def both(a: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        slope = activation.value_and_slope(a, 1)[1]
        pushed = activation.push(t, slope, -1)
        return pushed, activation.pull(pushed, slope, 4, -1)

    found = torch.func.vmap(both)(a, t)
    wanted = zip(*(both(*pair) for pair in zip(a, t, strict=True)), strict=True)
    torch.testing.assert_close(found, tuple(torch.stack(parts) for parts in wanted))


@pytest.mark.compile
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_value_and_products_are_traced_in_one_graph(name: str) -> None:
    torch.compiler.reset()  # only so many variants may hang on the code below
    activation, a, t = made(name), scattered(2, 4, 3), scattered(5, 2, 4, 3)

    def everything(a: Tensor, t: Tensor, matrix: Tensor) -> tuple[Tensor, ...]:
        value, slope = activation.value_and_slope(a, -2)
        pushed = activation.push(t, slope, -2)
        pulled = activation.pull(pushed, slope, 4, -2)
        return value, pushed, pulled, activation.trace(slope, matrix)

    arguments = a, t, scattered(4 * activation.expansion, 4)
    traced = torch.compile(everything, fullgraph=True, backend="eager")(*arguments)
    torch.testing.assert_close(traced, everything(*arguments))


def test_a_copy_of_an_instance_has_parameters_of_its_own() -> None:
    model = LipSwish()
    model.beta.data.fill_(0.3)
    first, second = make_activation(model), make_activation(model)
    assert len({id(m.parameters_tuple()[0]) for m in (model, first, second)}) == 3
    torch.testing.assert_close(first.parameters_tuple(), model.parameters_tuple())


@pytest.mark.parametrize("wrong", [None, CPila, 3])
def test_what_is_neither_a_name_nor_an_activation_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected a name or an instance of Activation, got"):
        unwrap(make_activation)(wrong)


def test_an_instance_may_have_a_constant_of_its_own() -> None:
    scaled = make_activation("tanh")
    scaled.lipschitz = 0.5
    assert (scaled.lipschitz, make_activation(scaled).lipschitz) == (0.5, 0.5)
    assert make_activation("tanh").lipschitz == 1.0
