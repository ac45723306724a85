"""Classifiers shaped like a ResNet: sizes, blocks, statistics of batch normalisations."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from flow_core.blocks import Implicit, Residual
from flow_core.lipschitz import lipschitz_certificate
from flow_core.models import ContractiveResNet, ResNetConfig
from flow_core.models.resnets import BlockOfResNet
from flow_core.record import record
from torch import Tensor, nn

SMALL = ResNetConfig(widths=(4, 6, 8), classes=3)
SHAPE = (3, 8, 8)
BLOCKS: list[BlockOfResNet] = ["implicit", "residual", "plain"]


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def made(config: ResNetConfig) -> ContractiveResNet:
    torch.manual_seed(0)
    return ContractiveResNet(config, SHAPE)


@pytest.mark.parametrize(
    ("block", "classes", "count"),
    [
        # The published code counts a number a block that its estimator is made of.
        ("implicit", 10, 6_521_422 - 4),
        ("implicit", 100, 6_567_592 - 4),
        ("residual", 100, 6_567_592 - 4),
        ("plain", 100, 6_573_476),
    ],
)
def test_published_numbers_of_parameters(block: BlockOfResNet, classes: int, count: int) -> None:
    with torch.device("meta"):
        model = ContractiveResNet(ResNetConfig(block=block, classes=classes), (3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("block", BLOCKS)
def test_every_parameter_gets_a_gradient(block: BlockOfResNet) -> None:
    model = made(replace(SMALL, block=block))
    with record(model) as report:
        logits = model(images())
    assert logits.shape == (5, 3)
    torch.autograd.backward(logits.square().sum())
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    solved = [s for s in report.summary().values() if s.evaluations]
    assert len(solved) == (3 if block == "implicit" else 0)
    assert len(lipschitz_certificate(model)) == (0 if block == "plain" else 6)


def test_blocks_of_a_stage_are_what_they_are_called() -> None:
    implicit, residual = (made(replace(SMALL, block=b)) for b in BLOCKS[:2])
    assert sum(isinstance(m, Implicit) for m in implicit.modules()) == 3
    assert sum(isinstance(m, Residual) for m in residual.modules()) == 6


def test_an_implicit_block_without_its_second_map_is_a_residual_one() -> None:
    implicit, residual = (made(replace(SMALL, block=b)).eval() for b in BLOCKS[:2])
    values = implicit.state_dict().values()
    residual.load_state_dict(dict(zip(residual.state_dict(), values, strict=True)))
    second = [m.g_z for m in implicit.modules() if isinstance(m, Implicit)]
    last = [cast(nn.Sequential, stage.blocks)[1] for stage in residual.stages]
    for g in (*second, *last):
        for p in g.parameters():
            nn.init.zeros_(p)
    torch.testing.assert_close(implicit(images()), residual(images()))


def test_statistics_begin_at_those_of_the_first_batch() -> None:
    model = made(replace(SMALL, momentum=1e-3)).eval()
    x = images(50)
    model.initialize(x)
    assert not any(m.training for m in model.modules())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.momentum == 1e-3 for norm in norms)
    convolution, norm, _ = cast(nn.Sequential, model.stem)
    made_of_batch = convolution(x)
    torch.testing.assert_close(norm.running_mean, made_of_batch.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, made_of_batch.var((0, 2, 3)))
    with torch.no_grad():
        tested = model(x)
        model.train()
        torch.testing.assert_close(model(x), tested, rtol=0.02, atol=0.02)


def test_statistics_follow_no_test() -> None:
    model = made(SMALL).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        one = model(images())[:1]
        torch.testing.assert_close(model(images()[:1]), one)  # no sample sees another
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": ()}, r"widths: expected positive integers, got \(\)"),
        ({"classes": 1}, "classes: expected 2 or more, got 1"),
        ({"momentum": 0.0}, r"momentum: expected in \(0, 1\], got 0.0"),
    ],
)
def test_bad_configs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**fields)
