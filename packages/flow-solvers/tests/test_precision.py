"""What solves are computed in."""

from collections.abc import Iterator
from operator import attrgetter

import pytest
import torch
from flow_solvers.precision import exact_float32, widen, without_autocast


@pytest.fixture
def _settings() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("allowed", [True, False])
def test_float32_is_exact_inside_and_as_it_was_outside(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = allowed
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    outside = precisions()

    def fail() -> None:
        with exact_float32():
            assert precisions() == ["ieee", "ieee"]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert precisions() == outside
    assert torch.backends.cudnn.allow_tf32 is allowed
    assert torch.backends.cuda.matmul.allow_tf32 is allowed


def precisions() -> list[str]:
    return [
        attrgetter(f"{name}.fp32_precision")(torch.backends)
        for name in ("cudnn.conv", "cuda.matmul")
    ]


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


@pytest.mark.gpu
@pytest.mark.usefixtures("_settings")
def test_products_on_a_gpu_keep_float32() -> None:
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    a, b = torch.randn(2, 64, 64, device="cuda")
    with without_autocast(a):
        error = (a @ b - a.double() @ b.double()).abs().max()
    assert float(error) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_nothing_else(dtype: torch.dtype) -> None:
    assert widen(torch.ones(2, dtype=dtype)).dtype == torch.float32
    for kept in (torch.ones(2), torch.ones(2).double(), torch.ones(2).long()):
        assert widen(kept) is kept
