"""What solves are computed in."""

from operator import attrgetter

import pytest
import torch
from flow_solvers.precision import exact_convolutions, without_autocast


@pytest.mark.parametrize("allowed", [True, False])
def test_convolutions_are_exact_inside_and_as_they_were_outside(allowed: bool) -> None:
    settings = attrgetter("conv")(torch.backends.cudnn)
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = allowed
        outside = settings.fp32_precision
        inside: list[str] = []

        def fail() -> None:
            with exact_convolutions():
                inside.append(settings.fp32_precision)
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert inside == ["ieee"]
        assert settings.fp32_precision == outside
        assert torch.backends.cudnn.allow_tf32 is allowed
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_autocast_is_off_inside_and_on_again_outside() -> None:
    x = torch.randn(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        with without_autocast(x):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


@pytest.mark.gpu
def test_convolutions_on_a_gpu_keep_float32() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(8, 32, 16, 16, device="cuda"), torch.randn(32, 32, 3, 3, device="cuda")
    exact = torch.nn.functional.conv2d(x.double(), weight.double())
    with without_autocast(x):
        error = (torch.nn.functional.conv2d(x, weight) - exact).abs().max()
    assert float(error) < 1e-4
