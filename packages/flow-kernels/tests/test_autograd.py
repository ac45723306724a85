"""What the operations are computed in."""

from collections.abc import Iterator
from operator import attrgetter

import pytest
import torch
from flow_kernels.autograd import exact_float32


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
