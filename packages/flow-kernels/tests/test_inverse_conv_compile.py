"""Inverse convolution under compilers: registered right, no graph break, same numbers."""

import importlib
from collections.abc import Callable
from functools import partial

import pytest
import torch
from flow_kernels import Order, inverse_conv2d, padded_conv2d
from torch import Tensor
from torch.autograd import grad

pytestmark = pytest.mark.compile

Operation = Callable[..., Tensor]


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=g, dtype=dtype) for s in ((2, 4, 5, 3), (4, 2, 3, 2)))
    return x, (0.2 * weight).requires_grad_(), torch.zeros(4, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("operation", [inverse_conv2d, padded_conv2d])
@pytest.mark.parametrize("orders", ["TL", ("BR", "TR")])
def test_one_graph_with_the_same_values_and_gradients(
    operation: Operation, orders: Order | tuple[Order, ...]
) -> None:
    x, weight, diagonal = inputs()
    function = partial(operation, orders=orders)
    fast = torch.compile(function, fullgraph=True, dynamic=False)
    along, leaves = torch.randn_like(x), (x.requires_grad_(), weight, diagonal)
    found: list[list[Tensor]] = []
    for run in (function, fast):
        z = run(x, weight, log_diagonal=diagonal)
        found.append([z, *grad(z, leaves, along)])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected)


Transform = Callable[[Tensor, Tensor], Tensor]


def by_jvp(x: Tensor, weight: Tensor) -> Tensor:
    moved: Tensor = torch.func.jvp(lambda q: inverse_conv2d(q, weight), (x,), (x,))[1]  # pyright: ignore[reportUnknownLambdaType]
    return moved


def by_grad(x: Tensor, weight: Tensor) -> Tensor:
    slope: Tensor = torch.func.grad(lambda q: inverse_conv2d(q, weight).square().sum())(x)  # pyright: ignore[reportUnknownLambdaType]
    return slope


@pytest.mark.parametrize("transform", [by_jvp, by_grad])
def test_a_transform_inside_is_refused_and_never_silently_zero(transform: Transform) -> None:
    x, weight, _ = inputs()
    weight = weight.detach()
    with pytest.raises(Exception, match="would lose tangents"):
        torch.compile(transform, backend="eager", fullgraph=True)(x, weight)


def test_a_tangent_inside_is_right_where_the_graph_may_break() -> None:
    x, weight, _ = inputs()
    weight = weight.detach()
    loose = torch.compile(by_jvp, backend="eager")
    torch.testing.assert_close(loose(x, weight), by_jvp(x, weight))


# opcheck itself reads gradients of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_is_registered_right(transposed: bool, dtype: torch.dtype) -> None:
    x, _, _ = inputs(dtype)
    kernel = 0.1 * torch.randn(2, 2, 2, 3, 2, dtype=dtype)
    kernel[..., -1, -1] = kernel[..., -1, -1].tril(-1) + torch.eye(2, dtype=dtype)
    operator = torch.ops.flow_kernels.solve_padded_conv
    arguments = (x.requires_grad_(), kernel.detach().requires_grad_(), [0, 3], transposed)
    torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("side", [3, 11])
def test_the_kernel_for_gpus_has_one_product_whatever_the_taps(side: int) -> None:
    """One for each made compilers take minutes, and registers overflow."""
    triton = pytest.importorskip("triton")
    kernel = importlib.import_module("flow_kernels.inverse_conv.triton_kernel")._solve
    names: list[str] = kernel.arg_names
    constants = {"C": 48, "KW": side, "ROWS": 16, "COLUMNS": 64}
    kinds = dict.fromkeys(("first_ptr", "z_ptr", "taps_ptr"), "*fp32") | {"orders_ptr": "*i32"}
    kinds |= dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(
        kernel,
        {name: kinds.get(name, "i32") for name in names},
        {(names.index(name),): number for name, number in constants.items()},
    )
    compiled = triton.compile(
        source,
        target=triton.backends.compiler.GPUTarget("cuda", 90, 32),
        options={"num_warps": 8, "enable_fp_fusion": True},
    )
    assert compiled.asm["ttir"].count("tt.dot ") == 1
