import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from flow_solvers import (
    AdjointSolver,
    Anderson,
    Direct,
    FunctionMap,
    Gmres,
    LinearSolution,
    MapFunction,
    Newton,
    Picard,
    SolverError,
    Status,
    Tolerance,
    fixed_point,
    require_on_failure,
    resolvent,
)
from torch import Tensor
from torch.autograd import backward, gradcheck, gradgradcheck
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode

TIGHT = Tolerance(rtol=1e-13)


@dataclass
class Counted:
    """A function that counts how often it is evaluated."""

    function: MapFunction
    calls: int = 0

    def __call__(self, w: Tensor, *tensors: Tensor) -> Tensor:
        self.calls += 1
        return cast("Callable[..., Tensor]", self.function)(w, *tensors)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64).to(dtype)


def contraction(dim: int, norm: float = 0.8) -> Tensor:
    raw = normal(dim, dim, seed=8)
    size: Tensor = torch.linalg.matrix_norm(raw, 2)
    return norm * raw / size


def sines(w: Tensor, matrix: Tensor, context: Tensor) -> Tensor:
    return torch.sin(w @ matrix.mT + context)


def conv(w: Tensor, kernel: Tensor, context: Tensor) -> Tensor:
    return torch.tanh(conv2d(w, kernel, padding=1) + context)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(
    ("dim", "adjoint"),
    [(1, Direct(1e-13)), (2, Direct(1e-13)), (2, Gmres(rtol=1e-13)), (3, Direct()), (6, Gmres())],
)
def test_first_and_second_derivatives_of_a_dense_map(
    dim: int, negative: bool, adjoint: AdjointSolver
) -> None:
    def solve(x: Tensor, matrix: Tensor, context: Tensor) -> Tensor:
        bound = FunctionMap(sines, (matrix,), (context,))
        bound = -bound if negative else bound
        return resolvent(bound, x, adjoint=adjoint, tolerance=TIGHT).value

    inputs = (normal(2, dim, seed=1), contraction(dim), normal(2, dim, seed=2))
    leaves = tuple(tensor.requires_grad_() for tensor in inputs)
    # Every entry where that is quick, a random projection elsewhere.
    assert gradcheck(solve, leaves, fast_mode=dim > 1)
    assert gradgradcheck(solve, leaves, fast_mode=dim > 1)


@pytest.mark.parametrize("negative", [False, True])
def test_first_and_second_derivatives_of_a_convolutional_map(negative: bool) -> None:
    def solve(x: Tensor, kernel: Tensor, context: Tensor) -> Tensor:
        bound = FunctionMap(conv, (kernel,), (context,))
        bound = -bound if negative else bound
        return resolvent(
            bound, x, solver=Anderson(), adjoint=Gmres(rtol=1e-13), tolerance=TIGHT
        ).value

    leaves = (
        normal(2, 2, 3, 3, seed=1).requires_grad_(),
        (0.1 * normal(2, 2, 3, 3, seed=2)).requires_grad_(),
        normal(2, 2, 3, 3, seed=3).requires_grad_(),
    )
    assert gradcheck(solve, leaves, fast_mode=True)
    assert gradgradcheck(solve, leaves, fast_mode=True)


def test_third_derivative() -> None:
    def second(x: Tensor) -> Tensor:
        bound = FunctionMap(lambda w: 0.6 * torch.sin(w))
        w = resolvent(bound, x, tolerance=TIGHT).value
        (first,) = torch.autograd.grad(w.sum(), x, create_graph=True)
        (again,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        return again

    x = normal(4, 1).requires_grad_()
    assert gradcheck(second, (x,))


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    matrix, context = contraction(2), normal(3, 2, seed=2).requires_grad_()
    x = normal(3, 2)
    backward(resolvent(FunctionMap(sines, (matrix,), (context,)), x).value.sum())
    assert x.grad is None
    assert matrix.grad is None
    assert context.grad is not None
    assert bool((context.grad != 0).all())


def test_gradients_reach_what_the_tensors_were_made_from() -> None:
    raw = normal(2, 2, seed=4).requires_grad_()

    def solve(raw: Tensor, x: Tensor) -> Tensor:
        size = torch.linalg.matrix_norm(raw, 2)
        bound = FunctionMap(sines, (0.5 * raw / size,), (raw.sum().expand_as(x),))
        return resolvent(bound, x, tolerance=TIGHT).value

    leaves = (raw, normal(2, 2).requires_grad_())
    assert gradcheck(solve, leaves, fast_mode=True)
    assert gradgradcheck(solve, leaves, fast_mode=True)


def test_a_fixed_point_has_gradients() -> None:
    def solve(matrix: Tensor, context: Tensor) -> Tensor:
        bound = FunctionMap(sines, (matrix,), (context,))
        return fixed_point(bound, torch.zeros_like(context), tolerance=TIGHT).value

    assert gradcheck(solve, (contraction(3).requires_grad_(), normal(2, 3).requires_grad_()))


@pytest.mark.parametrize("dim", [2, 20])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e4])
def test_gradients_do_not_depend_on_the_scale_of_the_loss(dim: int, scale: float) -> None:
    matrix = contraction(dim, 0.9)
    x = normal(5, dim, dtype=torch.float32).requires_grad_()
    cotangent = normal(5, dim, seed=9, dtype=torch.float32)
    bound = FunctionMap(sines, (matrix.float(),), (normal(5, dim, seed=2).float(),))
    value = resolvent(bound, x).value
    (found,) = torch.autograd.grad(value, x, scale * cotangent)
    slopes = torch.cos(value.detach().double() @ matrix.mT + normal(5, dim, seed=2))
    system = torch.eye(dim, dtype=torch.float64) + (slopes.unsqueeze(2) * matrix).mT
    exact: Tensor = torch.linalg.solve(system, cotangent.double())
    error = (found.double() / scale - exact).norm(dim=1) / exact.norm(dim=1)
    assert float(error.max()) < 1e-5


def test_newton_leaves_its_jacobian_to_the_adjoint() -> None:
    function = Counted(sines)
    x = normal(3, 2).requires_grad_()
    bound = FunctionMap(function, (contraction(2),), (normal(3, 2, seed=2),))
    solution = resolvent(bound, x, solver=Newton())
    before = function.calls
    assert before == solution.calls + 1  # the last one looks whether it is a function
    torch.autograd.grad(solution.value.sum(), x)
    assert function.calls == before


@pytest.mark.parametrize("dim", [2, 20])
def test_a_backward_evaluates_once(dim: int) -> None:
    function = Counted(sines)
    matrix = contraction(dim).requires_grad_()
    bound = FunctionMap(function, (matrix,), (normal(3, dim, seed=2),))
    solution = resolvent(bound, normal(3, dim))
    before = function.calls
    torch.autograd.grad(solution.value.sum(), matrix)
    assert function.calls == before + 1


class MatrixProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as torch has it
    """Counts the matrix products that are computed."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func is torch.ops.aten.mm.default
        return func(*args, **(kwargs or {}))


def test_adjoint_products_compute_no_weight_gradients() -> None:
    x = normal(3, 20).requires_grad_()
    counts = list[int]()
    for weight_gradient in (False, True):
        matrix = contraction(20).requires_grad_(weight_gradient)
        value = resolvent(FunctionMap(lambda w, m: torch.sin(w @ m.mT), (matrix,)), x).value
        with MatrixProducts() as products:  # type: ignore[no-untyped-call]  # as torch has it
            torch.autograd.grad(value.sum(), [x, matrix] if weight_gradient else [x])
        counts.append(products.count)
    assert counts[0] > 5
    assert counts[1] == counts[0] + 1


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    matrix = contraction(20).requires_grad_()
    backward(resolvent(FunctionMap(lambda w, m: w @ m, (matrix,)), normal(3, 20)).value.sum())
    assert bool((torch.get_rng_state() == before).all())


def test_a_parameter_that_changes_before_backward_is_noticed() -> None:
    matrix = contraction(2).requires_grad_()
    value = resolvent(FunctionMap(lambda w, m: w @ m, (matrix,)), normal(3, 2)).value
    with torch.no_grad():
        matrix.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        backward(value.sum())


def test_autocast_changes_nothing() -> None:
    matrix = contraction(20).float().requires_grad_()
    x = normal(3, 20, dtype=torch.float32)
    bound = FunctionMap(lambda w, m: torch.sin(w @ m.mT), (matrix,))
    plain = resolvent(bound, x).value
    (expected,) = torch.autograd.grad(plain.sum(), matrix)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = resolvent(bound, x).value
        (found,) = torch.autograd.grad(cast.sum(), matrix)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_for_the_solve(half: torch.dtype) -> None:
    matrix = contraction(3).to(half).requires_grad_()
    x = normal(4, 3).to(half).requires_grad_()
    solution = resolvent(FunctionMap(lambda w, m: torch.sin(w @ m.mT), (matrix,)), x)
    assert solution.value.dtype == torch.float32
    assert float(solution.residual.max()) < 1e-5
    backward(solution.value.sum())
    assert x.grad is not None
    assert matrix.grad is not None
    assert x.grad.dtype == matrix.grad.dtype == half


def test_failure_names_the_samples() -> None:
    strength = torch.tensor([0.1, 0.99, 0.1, 0.99], dtype=torch.float64)
    bound = FunctionMap(lambda w, s: s.unsqueeze(1) * torch.sin(w + 1), (), (strength,))
    x = normal(4, 3, seed=5)
    with pytest.raises(SolverError, match=r"2 of 4 samples .*2 BUDGET.*samples 1, 3") as caught:
        resolvent(bound, x, solver=Picard(budget=12))
    error = caught.value
    assert error.indices.tolist() == [1, 3]
    assert error.status.tolist() == [Status.BUDGET] * 2
    assert float(error.residuals.min()) > 1e-10
    assert error.solution is not None
    assert error.solution.converged.tolist() == [True, False, True, False]

    returned = resolvent(bound, x, solver=Picard(budget=12), on_failure="return")
    assert returned.converged.tolist() == [True, False, True, False]
    assert not returned.all_converged


def test_the_advice_for_a_nan_is_to_look_for_its_source() -> None:
    x = normal(3, 4)
    x[1] = float("nan")
    with pytest.raises(SolverError, match=r"1 NONFINITE.*samples 1,.*Look for NaN") as caught:
        resolvent(FunctionMap(lambda w: 0.5 * torch.sin(w)), x)
    assert "tolerance" not in str(caught.value)


def test_a_failed_derivative_is_not_silent() -> None:
    matrix = contraction(30, 0.95)
    x = normal(3, 30).requires_grad_()
    bound = FunctionMap(lambda w: w @ matrix.mT)
    short = Gmres(budget=3)
    with pytest.raises(SolverError, match="derivative"):
        backward(resolvent(bound, x, adjoint=short).value.sum())
    with pytest.warns(RuntimeWarning, match="derivative of a fixed point: 3 of 3"):
        backward(resolvent(bound, x, adjoint=short, on_failure="return").value.sum())
    assert x.grad is not None


@pytest.mark.parametrize("deals", [True, False])
def test_a_listener_hears_of_derivatives_and_may_deal_with_failures(deals: bool) -> None:
    matrix = contraction(30, 0.95)
    x = normal(3, 30).requires_grad_()
    bound = FunctionMap(lambda w: w @ matrix.mT)
    heard: list[LinearSolution] = []

    def listen(solution: LinearSolution) -> bool:
        heard.append(solution)
        return deals

    value = resolvent(bound, x, adjoint=Gmres(budget=3), listener=listen).value.sum()
    with nullcontext() if deals else pytest.raises(SolverError, match="derivative"):
        backward(value)
    assert [solution.unsolved for solution in heard] == [3]


def test_a_nan_cotangent_stays_in_its_sample() -> None:
    x = normal(3, 30).requires_grad_()
    matrix = contraction(30)
    value = resolvent(FunctionMap(lambda w: w @ matrix.mT), x).value
    cotangent = torch.ones_like(value)
    cotangent[1, 4] = math.nan
    (found,) = torch.autograd.grad(value, x, cotangent)
    assert found.isnan().any(dim=1).tolist() == [False, True, False]


def test_empty_batches_have_gradients() -> None:
    matrix = contraction(2).requires_grad_()
    x = normal(0, 2).requires_grad_()
    backward(resolvent(FunctionMap(lambda w, m: w @ m, (matrix,)), x).value.sum())
    assert matrix.grad is not None
    assert float(matrix.grad.abs().sum()) == 0.0


def test_a_misspelt_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="expected on_failure"):
        require_on_failure("Raise")
    require_on_failure("return")
