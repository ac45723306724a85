"""What every bijection promises, for every class of the package (registry: conftest.py)."""

import copy
import importlib
import inspect
import pkgutil
from collections.abc import Callable

import flow_core
import pytest
import torch
from flow_core.bijection import Bijection
from flow_core.combinators import Invert
from flow_core.jacobian import jacobian
from torch import Tensor
from torch.func import functional_call

single = pytest.mark.parametrize("dtype", [torch.float32], ids=["float32"])
double = pytest.mark.parametrize("dtype", [torch.float64], ids=["float64"])
Method = Callable[..., object]


def tolerance(dtype: torch.dtype) -> float:
    return 2e-5 if dtype == torch.float32 else 1e-9


def close(one: Tensor, other: Tensor) -> bool:
    bound = tolerance(one.dtype)
    return one.shape == other.shape and torch.allclose(one, other, rtol=bound, atol=bound)


def methods(bijection: Bijection) -> list[tuple[str, Method]]:
    """The calls that take x, and those that take y."""
    return [
        ("x", bijection.transform),
        ("x", bijection.transform_and_log_det),
        ("x", bijection),
        ("y", bijection.inverse),
        ("y", bijection.inverse_and_log_det),
    ]


def tensors(result: object) -> list[Tensor]:
    values = result if isinstance(result, tuple) else (result,)
    return [value for value in values if isinstance(value, Tensor)]


def concrete_bijections() -> set[type[Bijection]]:
    """Every class in flow_core that can be instantiated."""
    found: set[type[Bijection]] = set()
    for module in pkgutil.walk_packages(flow_core.__path__, "flow_core."):
        for value in vars(importlib.import_module(module.name)).values():
            if (
                inspect.isclass(value)
                and issubclass(value, Bijection)
                and value.__module__.startswith("flow_core.")
                and not inspect.isabstract(value)
            ):
                found.add(value)
    return found


def test_every_concrete_bijection_is_registered(registered: set[type[Bijection]]) -> None:
    missing = sorted(cls.__qualname__ for cls in concrete_bijections() - registered)
    assert not missing, f"add a Case for {missing} to CASES in conftest.py"


def test_concrete_bijections_are_final() -> None:
    classes = concrete_bijections()
    assert classes
    assert not [cls.__name__ for cls in classes if not getattr(cls, "__final__", False)]


def test_round_trip(bijection: Bijection, x: Tensor, context: Tensor | None) -> None:
    y = bijection.transform(x, context=context)
    assert close(bijection.inverse(y, context=context), x)
    assert close(bijection.transform(bijection.inverse(y, context=context), context=context), y)


def test_methods_agree(bijection: Bijection, x: Tensor, context: Tensor | None) -> None:
    y, log_det = bijection.transform_and_log_det(x, context=context)
    assert close(bijection.transform(x, context=context), y)
    assert all(
        close(a, b) for a, b in zip(bijection(x, context=context), (y, log_det), strict=True)
    )
    back, inverse_log_det = bijection.inverse_and_log_det(y, context=context)
    assert close(bijection.inverse(y, context=context), back)
    assert close(inverse_log_det, -log_det)


def test_shapes_dtypes_and_devices(bijection: Bijection, x: Tensor, context: Tensor | None) -> None:
    y, log_det = bijection(x, context=context)
    back, inverse_log_det = bijection.inverse_and_log_det(y, context=context)
    assert back.shape == x.shape
    assert y[0].numel() == x[0].numel()
    for value in (y, log_det, back, inverse_log_det):
        assert (value.dtype, value.device) == (x.dtype, x.device)
    assert log_det.shape == inverse_log_det.shape == x.shape[:1]


@double
def test_log_det_is_that_of_the_dense_jacobian(
    bijection: Bijection, x: Tensor, context: Tensor | None
) -> None:
    y, log_det = bijection(x, context=context)
    matrix = jacobian(bijection, x, context=context)
    assert close(torch.linalg.slogdet(matrix).logabsdet, log_det.detach())
    _, inverse_log_det = bijection.inverse_and_log_det(y.detach(), context=context)
    inverse = jacobian(bijection, y.detach(), direction="inverse", context=context)
    assert close(torch.linalg.slogdet(inverse).logabsdet, inverse_log_det.detach())
    identity = torch.eye(matrix.shape[1], dtype=x.dtype, device=x.device)
    assert torch.allclose(matrix @ inverse, identity.expand_as(matrix), atol=1e-7)


@double
@pytest.mark.parametrize("direction", ["transform", "inverse"])
def test_gradients(bijection: Bijection, x: Tensor, context: Tensor | None, direction: str) -> None:
    """First derivatives for the input, the context and all parameters as one vector."""
    module = bijection if direction == "transform" else Invert(bijection)
    point = x if direction == "transform" else bijection.transform(x, context=context)
    named = {name: p.detach() for name, p in module.named_parameters()}
    flat = torch.cat([x.new_zeros(1), *(p.flatten() for p in named.values())])
    given = x.new_zeros(1) if context is None else context

    def run(point: Tensor, given: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
        pieces = torch.split(flat[1:], [p.numel() for p in named.values()])
        state = {
            name: piece.view_as(p) for (name, p), piece in zip(named.items(), pieces, strict=True)
        }
        kwargs = {} if context is None else {"context": given}
        y, log_det = functional_call(module, state, (point,), kwargs)
        # A term without effect, for layers that lack parameters or a context.
        return y + 0 * flat[0], log_det + 0 * given.flatten()[0]

    inputs = [t.detach().clone().requires_grad_() for t in (point, given, flat)]
    assert torch.autograd.gradcheck(
        run, inputs, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True, check_undefined_grad=False
    )


@double
@pytest.mark.cases("small")
@pytest.mark.parametrize("direction", ["transform", "inverse"])
def test_second_derivatives(
    bijection: Bijection, x: Tensor, context: Tensor | None, direction: str
) -> None:
    module = bijection if direction == "transform" else Invert(bijection)
    point = x if direction == "transform" else bijection.transform(x, context=context)
    parameter = next((p for p in module.parameters() if p.requires_grad), None)

    def run(point: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = module(point, context=context)
        return y.sin(), (y.flatten(1).sum(1) * log_det).sin()

    for p in module.parameters():
        p.requires_grad_(p is parameter)
    assert torch.autograd.gradgradcheck(
        run, point.detach().requires_grad_(), eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True
    )


@single
def test_no_method_changes_the_state_or_its_input(
    bijection: Bijection, x: Tensor, context: Tensor | None
) -> None:
    y = bijection.transform(x, context=context).detach()
    before = copy.deepcopy(bijection.state_dict())
    given = copy.deepcopy((x, y, context))
    for training in (False, True):
        bijection.train(training)
        for kind, method in methods(bijection):
            method(x if kind == "x" else y, context=context)
    after = bijection.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    torch.testing.assert_close((x, y, context), given, rtol=0, atol=0)


@single
def test_state_dict_round_trip(
    bijection: Bijection, stranger: Bijection, x: Tensor, context: Tensor | None
) -> None:
    stranger.load_state_dict(bijection.state_dict())
    assert all(
        close(a, b)
        for a, b in zip(stranger(x, context=context), bijection(x, context=context), strict=True)
    )


@single
def test_a_sample_does_not_depend_on_its_neighbours(
    bijection: Bijection, x: Tensor, context: Tensor | None
) -> None:
    y = bijection.transform(x, context=context).detach()
    for kind, method in methods(bijection):
        point = x if kind == "x" else y
        whole = tensors(method(point, context=context))
        alone = tensors(method(point[1:2], context=None if context is None else context[1:2]))
        assert all(close(a, b[1:2]) for a, b in zip(alone, whole, strict=True))


@single
@pytest.mark.cases("context")
def test_context_reaches_its_own_sample_only(
    bijection: Bijection, x: Tensor, context: Tensor
) -> None:
    changed = context.clone()
    changed[0] += 1
    y = bijection.transform(x, context=context).detach()
    for kind, method in methods(bijection):
        point = x if kind == "x" else y
        pairs = zip(
            tensors(method(point, context=context)),
            tensors(method(point, context=changed)),
            strict=True,
        )
        for one, other in pairs:
            assert not close(one[:1], other[:1])
            assert close(one[1:], other[1:])


def test_empty_batch(bijection: Bijection, x: Tensor, context: Tensor | None) -> None:
    none = None if context is None else context[:0]
    y, log_det = bijection(x[:0], context=none)
    assert y.shape == (0, *bijection.transform(x, context=context).shape[1:])
    assert log_det.shape == (0,)
    back, log_det = bijection.inverse_and_log_det(y, context=none)
    assert back.shape == x[:0].shape
    assert log_det.shape == (0,)


@single
def test_memory_layout_does_not_matter(
    bijection: Bijection, x: Tensor, context: Tensor | None
) -> None:
    y = bijection.transform(x, context=context).detach()
    for kind, method in methods(bijection):
        point = x if kind == "x" else y
        strided = torch.stack([point, point], -1)[..., 0]
        assert not strided.is_contiguous()
        pairs = zip(
            tensors(method(strided, context=context)),
            tensors(method(point, context=context)),
            strict=True,
        )
        assert all(close(a, b) for a, b in pairs)


@double
def test_frozen_parameters_leave_the_gradient_of_the_input(
    bijection: Bijection, x: Tensor, context: Tensor | None
) -> None:
    def gradient(kind: str, method: Method) -> Tensor:
        point = (x if kind == "x" else y).clone().requires_grad_()
        total = torch.stack([t.sin().sum() for t in tensors(method(point, context=context))])
        (grad,) = torch.autograd.grad(total.sum(), point)
        return grad

    y = bijection.transform(x, context=context).detach()
    trainable = [gradient(kind, method) for kind, method in methods(bijection)]
    bijection.requires_grad_(False)
    frozen = [gradient(kind, method) for kind, method in methods(bijection)]
    assert all(close(a, b) for a, b in zip(trainable, frozen, strict=True))


@single
def test_no_graph_without_gradients(
    bijection: Bijection, x: Tensor, context: Tensor | None
) -> None:
    with torch.no_grad():
        assert not any(t.requires_grad for t in bijection(x, context=context))
