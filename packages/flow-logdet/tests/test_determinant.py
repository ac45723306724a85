"""log|det A|, by the code of eager and by that of compiled calls."""

from collections.abc import Callable

import pytest
import torch
from flow_logdet import log_abs_det
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck


@pytest.fixture(params=[False, True], ids=["eager", "compiled"])
def rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """The function as it is where something is compiled, and where not."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param)
    return log_abs_det


def test_values(rule: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    for shape in ((3, 2, 5, 5), (1, 1), (4, 0, 0), (0, 3, 3)):
        matrix = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(rule(matrix), torch.linalg.slogdet(matrix).logabsdet)


def test_a_singular_matrix_has_minus_infinity_and_raises_nothing(
    rule: Callable[..., Tensor],
) -> None:
    found = rule(torch.stack([torch.zeros(3, 3), torch.ones(3, 3), torch.eye(3)]))
    torch.testing.assert_close(found, torch.tensor([-torch.inf, -torch.inf, 0.0]))


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2, 0)])
def test_derivatives(rule: Callable[..., Tensor], order: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    sizes = [0, 0, 0]
    for axis, size in zip(order, (2, 4, 4), strict=True):
        sizes[axis] = size
    numbers = torch.randn(sizes, dtype=torch.float64, requires_grad=True)

    def value(numbers: Tensor) -> Tensor:
        return rule(numbers.permute(order))

    assert gradcheck(value, (numbers,))
    assert gradgradcheck(value, (numbers,))
