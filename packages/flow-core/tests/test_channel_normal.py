"""A latent with learned channels, of all samples or of every class."""

import pytest
import torch
from flow_core.channel_normal import ChannelNormal
from flow_core.distributions import Flow
from flow_core.layers import Landmark
from flow_core.models import FlowConfig, image_flow
from torch import Tensor
from torch.distributions import Normal

TOP = (2, 3, 1)


def made(classes: int) -> ChannelNormal:
    torch.manual_seed(0)
    base = ChannelNormal((10,), TOP, classes=classes).double()
    with torch.no_grad():
        for p in base.parameters():
            p.normal_(std=0.7)
    return base


def normal(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """log N(z; mean, scale²) value by value."""
    log_prob: Tensor = Normal(mean, scale).log_prob(z)  # type: ignore[no-untyped-call]  # torch's
    return log_prob


def by_torch(base: ChannelNormal, z: Tensor, k: int) -> Tensor:
    """log p(z | k) value by value."""
    zero, one = z.new_zeros(()), z.new_ones(())
    values = [normal(z[:, i], zero, one) for i in range(4)]
    for i in range(4, 10):
        channel = (i - 4) // 3
        values.append(normal(z[:, i], base.mean[k, channel], base.log_scale[k, channel].exp()))
    return torch.stack(values).sum(0)


@pytest.mark.parametrize("classes", [1, 3])
def test_densities_are_those_of_torch(classes: int) -> None:
    base, z = made(classes), torch.randn(5, 10, dtype=torch.float64)
    expected = torch.stack([by_torch(base, z, k) for k in range(classes)], 1)
    torch.testing.assert_close(base.log_prob_of_classes(z), expected)
    mixture = expected.exp().mean(1).log()
    torch.testing.assert_close(base.log_prob(z), mixture)


def test_samples_have_the_moments_of_their_class() -> None:
    base = made(2)
    z = base.rsample_of(torch.ones(40_000, dtype=torch.long))
    rest, top = base.parts(z)
    assert torch.allclose(rest.std(0), rest.new_ones(4), atol=0.03)
    scale = base.log_scale[1].exp().detach()
    assert torch.allclose(top.mean((0, 2, 3)), base.mean[1].detach(), atol=0.03)
    assert torch.allclose(top.flatten(2).std((0, 2)), scale, rtol=0.03)


def test_samples_of_no_class_come_from_all_of_them() -> None:
    base = made(2)
    with torch.no_grad():
        base.mean.copy_(torch.tensor([[-50.0, 0.0], [50.0, 0.0]]))
    _, top = base.parts(base.rsample(1000))
    share = float((top[:, 0] > 0).double().mean())
    assert 0.4 < share < 0.6


def test_all_begin_as_standard_normal() -> None:
    base, z = ChannelNormal((10,), TOP, classes=4).double(), torch.randn(3, 10).double()
    expected = normal(z, z.new_zeros(()), z.new_ones(())).sum(1)
    torch.testing.assert_close(base.log_prob(z), expected)


def test_the_last_values_of_an_image_flow_are_those_of_its_last_block() -> None:
    config = FlowConfig(
        linear="conv1x1", block_size=1, coupling_width=4, learn_top=True, classes=2, actnorm=False
    )
    flow = image_flow(config, (1, 4, 4)).double()
    assert isinstance(flow.base, ChannelNormal)
    assert flow.base.top == (8, 1, 1)
    assert [m.name for m in flow.modules() if isinstance(m, Landmark)] == ["latent"]
    plain = image_flow(FlowConfig(linear="conv1x1", learn_top=True, split_prior=False), (1, 4, 4))
    assert isinstance(plain.base, ChannelNormal)
    assert plain.base.top == (16, 1, 1)
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    z, log_det = flow.bijection(x)
    torch.testing.assert_close(flow.log_prob(x), flow.base.log_prob(z) + log_det)


def test_gradients_reach_moments_through_samples_and_densities() -> None:
    base = made(3)
    loss = base.log_prob(torch.ones(2, 10).double()).sum() + base.rsample(3).sum()
    gradients = torch.autograd.grad(loss, [base.mean, base.log_scale])
    assert all(bool(g.any()) for g in gradients)


@pytest.mark.parametrize("top", [(11, 1, 1), (0, 1, 1)])
def test_images_that_do_not_fit_are_refused(top: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="image of at most 10 values"):
        ChannelNormal((10,), top)


def test_a_flow_of_it_samples() -> None:
    flow = Flow(made(2), Landmark("z", (10,)))
    assert flow.sample((3,)).shape == (3, 10)
    assert bool(flow.log_prob(flow.sample((3,))).isfinite().all())
