"""Images whose class chooses the top prior."""

import math
from dataclasses import replace

import pytest
import torch
from flow_core.channel_normal import ChannelNormal
from flow_core.dequantization import Dequantized, UniformDequantizer
from flow_core.models import FlowConfig, LabelledFlow, image_flow

CONFIG = FlowConfig(
    linear="conv1x1", block_size=1, coupling_width=4, learn_top=True, classes=3, alpha=0.05
)


def density(config: FlowConfig) -> Dequantized:
    torch.manual_seed(0)
    return Dequantized(image_flow(config, (1, 4, 4)), UniformDequantizer(), 4).double()


def made() -> LabelledFlow:
    model = LabelledFlow(density(CONFIG)).double()
    model.initialize(torch.randint(0, 4, (30, 1, 4, 4)))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def test_likelihoods_of_classes_are_those_of_a_flow_with_their_prior() -> None:
    model, x = made(), torch.randint(0, 4, (5, 1, 4, 4))
    noise = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    told = model(x, noise=noise)
    assert torch.equal(told.log_prob, model.density(x, noise=noise))
    mixture = told.log_prob_of_classes.logsumexp(1) - math.log(3)
    torch.testing.assert_close(mixture, told.log_prob)
    single = ChannelNormal((16,), model.base.top).double()
    for k in range(3):
        single.load_state_dict({n: v[k : k + 1] for n, v in model.base.state_dict().items()})
        z, log_det = model.density.flow.bijection((x + noise) / 4)
        expected = single.log_prob(z) + log_det - 16 * math.log(4)
        torch.testing.assert_close(told.log_prob_of_classes[:, k], expected)


def test_logits_come_from_the_mean_over_the_pixels_of_the_top() -> None:
    model, x = made(), torch.randint(0, 4, (5, 1, 4, 4))
    noise = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    z = model.density.flow.bijection.transform((x + noise) / 4)
    expected = model.logits(z[:, 8:].view(5, 8, 1, 1).mean((2, 3)))
    torch.testing.assert_close(model(x, noise=noise).logits, expected)


@pytest.mark.parametrize("learn_top", [False, True])
def test_flows_without_classes_are_refused(learn_top: bool) -> None:
    config = replace(CONFIG, learn_top=learn_top, classes=None)
    with pytest.raises(ValueError, match="ChannelNormal of classes"):
        LabelledFlow(density(config))
