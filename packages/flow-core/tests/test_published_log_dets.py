"""Log-determinants that released code has wrong are right here.

Each is held to a dense Jacobian, and the published formula to being caught by that. Source of the
formulas: Behrmann et al. 2021, released code.
"""

import math
from collections.abc import Callable

import pytest
import torch
from flow_core import (
    ActNorm,
    AffineCoupling,
    BoundedExpScale,
    ExpScale,
    HalfRangeSigmoidScale,
    ScaleFunction,
    SigmoidScale,
    initialize,
    jacobian,
)
from flow_core.bijection import Bijection
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


def exact(bijection: Bijection, x: Tensor) -> Tensor:
    log_abs_det: Tensor = torch.linalg.slogdet(jacobian(bijection, x)).logabsdet
    return log_abs_det


def actnorm() -> ActNorm:
    torch.manual_seed(0)
    layer = ActNorm(2).double()
    initialize(layer, torch.tensor([3.0, 0.5]) * torch.randn(20, 2, dtype=torch.float64))
    return layer


def coupling(scale: ScaleFunction) -> AffineCoupling:
    """Scales far from one."""
    torch.manual_seed(1)
    last = nn.Linear(4, 2)
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), last).double()
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.3, -6.0]))
    return AffineCoupling(net, scale)


def test_an_actnorm_of_vectors_counts_its_scales_once() -> None:
    """Of the toy regression the published one counts them as often as there are values."""
    layer, x = actnorm(), torch.randn(3, 2, dtype=torch.float64)
    _, log_det = layer(x)
    assert torch.allclose(log_det, exact(layer, x), rtol=1e-12)
    published = layer.log_scale.sum() * x.shape[-1]
    assert not torch.allclose(log_det, published.expand(3), rtol=0.1)


def test_an_epsilon_of_actnorm_scales_is_in_their_log_det() -> None:
    torch.manual_seed(0)
    layer = ActNorm(2, epsilon=0.3, log_scale_bound=math.log(5)).double()
    x = torch.randn(4, 2, 1, 3, dtype=torch.float64)
    initialize(layer, 3 * x)
    y, log_det = layer(x)
    assert torch.allclose(log_det, exact(layer, x), rtol=1e-12)
    assert torch.allclose(layer.inverse_and_log_det(y)[1], -log_det, rtol=1e-12)
    bounded = math.log(5) * torch.tanh(layer.log_scale / math.log(5))
    assert not torch.allclose(log_det, 3 * bounded.sum().expand(4), rtol=0.1)


@pytest.mark.parametrize(
    "scale",
    [
        HalfRangeSigmoidScale(0.1),  # naffine
        HalfRangeSigmoidScale(0.0),
        BoundedExpScale(math.log(5), math.log(5)),  # gaffine, of which the published sign is wrong
        SigmoidScale(epsilon=1e-2),
        ExpScale(epsilon=1e-2),
        ExpScale(),
    ],
)
def test_log_dets_of_inverses_are_the_negative_ones(scale: ScaleFunction) -> None:
    layer, x = coupling(scale), torch.randn(3, 2, dtype=torch.float64)
    y, log_det = layer(x)
    back, inverse_log_det = layer.inverse_and_log_det(y)
    assert torch.allclose(back, x, rtol=1e-9)
    assert torch.allclose(log_det, exact(layer, x), rtol=1e-10)
    assert torch.allclose(inverse_log_det, -log_det, rtol=1e-9)
    assert bool((inverse_log_det.abs() > 0.1).all())  # so that a wrong sign is seen


def identity(raw: Tensor) -> Tensor:
    return raw


@pytest.mark.parametrize(("scale", "log"), [(SigmoidScale, logsigmoid), (ExpScale, identity)])
def test_what_is_added_to_a_scale_is_in_its_logarithm(
    scale: type[SigmoidScale] | type[ExpScale], log: Callable[[Tensor], Tensor]
) -> None:
    """The published log-determinant is that of the scale without it."""
    layer, x = coupling(scale(epsilon=1e-2)), torch.randn(3, 2, dtype=torch.float64)
    _, log_det = layer(x)
    assert torch.allclose(log_det, exact(layer, x), rtol=1e-10)
    raw = layer.conditioner(x[:, :1])[:, 1]
    published = log(raw + (2.0 if scale is SigmoidScale else 0.0))
    assert not torch.allclose(log_det, published, rtol=1e-2)
