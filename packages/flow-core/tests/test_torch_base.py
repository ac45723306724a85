"""Distributions of torch as bases: what they are worth, that they move, learn and are refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flow_core.combinators import Chain
from flow_core.dequantization import Dequantized, UniformDequantizer
from flow_core.distributions import Flow
from flow_core.layers import Affine, Reshape
from flow_core.torch_base import TorchBase
from flow_core.views import frozen
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Categorical,
    Dirichlet,
    Distribution,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    SigmoidTransform,
    StudentT,
    TransformedDistribution,
    Uniform,
    VonMises,
)


def mixture(means: Tensor) -> MixtureSameFamily:
    return MixtureSameFamily(
        Categorical(torch.ones(len(means), dtype=means.dtype)),
        Independent(Normal(means, torch.full_like(means, 0.5)), 1),
    )


def transformed() -> Distribution:
    """With a transform that knows its inverse and has used it."""
    sigmoid = SigmoidTransform()
    made = TransformedDistribution(
        Independent(Normal(torch.zeros(2), 1.0), 1),
        [sigmoid.inv.inv, AffineTransform(torch.tensor([1.0, 2.0]), 3.0, event_dim=1)],
    )
    sigmoid.inv(torch.full((2,), 0.5))
    return made


DISTRIBUTIONS: list[Callable[[], Distribution]] = [
    lambda: Independent(Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])), 1),
    lambda: Independent(Normal(torch.zeros(1).expand(2), 1.0), 1),
    lambda: Independent(Laplace(torch.zeros(2, 3), 2.0), 2),
    lambda: Independent(StudentT(torch.tensor([3.0, 5.0])), 1),
    lambda: Independent(Uniform(torch.zeros(2), torch.ones(2)), 1),
    lambda: MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    lambda: LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3)),
    lambda: mixture(torch.tensor([[0.0, 3.0], [2.0, -1.0]])),
    lambda: Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
    lambda: Independent(VonMises(torch.zeros(2), torch.ones(2)), 1),
    lambda: Normal(0.0, 2.0),
    transformed,
]


class LearnedMixture(nn.Module):
    """Means that are parameters; its samples have no gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor([[0.0, 3.0], [2.0, -1.0]]))

    def forward(self) -> Distribution:
        return mixture(self.means)


class LearnedGaussian(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self) -> Distribution:
        return Independent(Normal(self.mean, self.log_std.exp()), 1)


def affine(shape: tuple[int, ...]) -> Affine:
    layer = Affine(shape)
    torch.nn.init.constant_(layer.log_scale, 0.5)
    torch.nn.init.constant_(layer.shift, 0.1)
    return layer


@pytest.mark.parametrize("make", DISTRIBUTIONS)
def test_a_flow_has_its_density_and_its_samples(make: Callable[[], Distribution]) -> None:
    made = make()
    layer = affine(tuple(made.event_shape))
    flow = Flow(made, layer)
    torch.manual_seed(0)
    x = flow.sample((4, 3))
    torch.manual_seed(0)
    z = made.sample((12,))
    assert x.shape == (4, 3, *made.event_shape)
    torch.testing.assert_close(layer.transform(x.reshape(z.shape)), z)
    # Mapped back, x may be a rounding error outside of a support that ends.
    assert torch.equal(Flow(made, Chain([])).log_prob(z), made.log_prob(z))


@pytest.mark.parametrize("make", DISTRIBUTIONS)
def test_it_moves_is_copied_and_saved(make: Callable[[], Distribution]) -> None:
    made = make()
    flow = Flow(made, affine(tuple(made.event_shape)))
    double = copy.deepcopy(flow).double()
    assert double.base.dtype == double.sample().dtype == torch.float64
    assert flow.base.dtype == flow.sample().dtype == torch.float32
    # Numbers come from the state alone.
    empty = copy.deepcopy(flow).to_empty(device="cpu")
    for buffer in empty.buffers():
        buffer.zero_()
    empty.load_state_dict(flow.state_dict())
    torch.manual_seed(0)
    x = flow.sample((3,))
    torch.manual_seed(0)
    assert torch.equal(empty.sample((3,)), x)


def test_it_is_on_the_device_of_the_model() -> None:
    flow = Flow(Independent(Normal(torch.zeros(2), 1.0), 1), affine((2,))).to("meta")
    assert flow.base.rsample(3).device.type == "meta"


def test_the_caller_keeps_tensors_of_its_own() -> None:
    mean = torch.zeros(2)
    flow = Flow(Independent(Normal(mean, 1.0), 1), affine((2,)))
    before = flow.log_prob(torch.ones(2))
    mean.fill_(7.0)
    assert torch.equal(flow.log_prob(torch.ones(2)), before)


def test_a_module_makes_a_base_that_learns() -> None:
    flow = Flow(LearnedGaussian(), affine((2,)))
    assert {"base.maker.mean", "base.maker.log_std"} <= dict(flow.named_parameters()).keys()
    parameters = list(flow.base.parameters())
    for loss in (flow.log_prob(torch.ones(5, 2)).sum(), flow.rsample((5,)).square().sum()):
        assert all(bool((g != 0).all()) for g in torch.autograd.grad(loss, parameters))
    fixed = Flow(Independent(Normal(torch.zeros(2), torch.ones(2)), 1), affine((2,)))
    torch.testing.assert_close(flow.log_prob(torch.ones(2)), fixed.log_prob(torch.ones(2)))
    with torch.no_grad():
        flow.base.get_parameter("maker.mean").fill_(3.0)
        assert float(flow.log_prob(torch.ones(2))) != float(fixed.log_prob(torch.ones(2)))
    assert flow.double().sample().dtype == torch.float64


def test_samples_without_gradients_are_not_passed_off_as_some_with() -> None:
    flow = Flow(LearnedMixture(), affine((2,)))
    assert not flow.condition().has_rsample
    assert flow.sample((5,)).shape == (5, 2)
    with pytest.raises(NotImplementedError, match=r"MixtureSameFamily, .* freeze"):
        flow.rsample((5,))
    flow.base.requires_grad_(False)
    # What remains has its right gradient: z does not depend on it.
    assert flow.rsample((5,)).requires_grad
    assert Flow(mixture(torch.zeros(2, 2)), affine((2,))).rsample((5,)).requires_grad


def test_views_and_integers_have_such_bases_too() -> None:
    flow = Flow(Independent(Normal(torch.zeros(2), 1.0), 1), affine((2,)))
    assert frozen(flow).base is flow.base
    model = Dequantized(flow.double(), UniformDequantizer(), 4).double()
    assert model(torch.tensor([[0, 3]])).dtype == torch.float64


@pytest.mark.parametrize(
    ("base", "error", "message"),
    [
        (
            lambda: Normal(torch.zeros(2), 1.0),
            ValueError,
            r"batch shape \(2,\) and event shape \(\)",
        ),
        (
            lambda: Independent(Normal(torch.zeros(3, 2), 1.0), 1),
            ValueError,
            r"batch shape \(3,\) and event shape \(2,\); Independent\(..., 1\)",
        ),
        (
            lambda: Independent(Normal(torch.zeros(3), 1.0), 1),
            ValueError,
            r"a base of shape \(2\), as its Affine has it, got \(3,\)",
        ),
        (
            lambda: Independent(Bernoulli(torch.ones(2) / 2), 1),
            ValueError,
            "discrete; .*Dequantized",
        ),
        (lambda: Independent(Poisson(torch.ones(2)), 1), ValueError, "which is discrete"),
        (
            lambda: Independent(Normal(torch.zeros(2, requires_grad=True), 1.0), 1),
            ValueError,
            "give a module that has them",
        ),
        (lambda: Flow(mixture(torch.zeros(2, 2)), affine((2,))).condition(), ValueError, "module"),
        (lambda: nn.Linear(2, 2), TypeError, "called without arguments .*got Linear"),
        (nn.Module, TypeError, "called without arguments"),
    ],
)
def test_what_is_no_base_is_refused_with_what_to_do(
    base: Callable[[], Any], error: type[Exception], message: str
) -> None:
    made = base()
    with pytest.raises(error, match=message):
        Flow(made, affine((2,)))


def test_a_module_that_makes_something_else_is_refused() -> None:
    class Zeros(nn.Module):
        def forward(self) -> Tensor:
            return torch.zeros(2)

    with pytest.raises(TypeError, match="expected Zeros to make a distribution, got a Tensor"):
        TorchBase(Zeros())


def test_shapes_that_the_bijection_does_not_have_are_refused() -> None:
    base = Independent(Normal(torch.zeros(6), 1.0), 1)
    flatten = Reshape.flatten((2, 3))
    assert Flow(base, flatten, (2, 3)).sample().shape == (2, 3)
    with pytest.raises(ValueError, match=r"an event_shape of shape \(2, 3\), as its Reshape"):
        Flow(base, flatten)
    with pytest.raises(ValueError, match=r"an event_shape of shape \(2, 3\)"):
        Flow(base, flatten, (3, 2))


def test_an_empty_batch_has_no_densities() -> None:
    flow = Flow(Independent(Normal(torch.zeros(2), torch.ones(2)), 1), Affine((2,)))
    assert flow.log_prob(torch.empty(0, 2)).shape == (0,)
    assert flow.rsample_and_log_prob((0,))[1].shape == (0,)
