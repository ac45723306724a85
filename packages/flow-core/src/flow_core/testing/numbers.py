"""Checks of values, log-determinants and derivatives."""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor
from torch.func import functional_call

from flow_core.combinators import Invert
from flow_core.domain import Domain
from flow_core.jacobian import jacobian
from flow_core.lipschitz import update_lipschitz
from flow_core.passes import Direction
from flow_core.testing.case import Call, Case


def directions_undo_each_other(case: Case) -> None:
    """Each direction undoes the other, in training and in evaluation mode."""
    layer, options = case.bijection, case.options
    for mode in (not layer.training, layer.training):
        layer.train(mode)
        y = layer.transform(case.x, **options)
        back = layer.inverse(y, **options)
        assert case.close(back, case.x), f"inverse(transform(x)) is off by {_off(back, case.x)}"
        again = layer.transform(back, **options)
        assert case.close(again, y), f"transform(inverse(y)) is off by {_off(again, y)}"


def methods_agree(case: Case) -> None:
    """With and without log-determinants, called or by name; log-dets of the two directions."""
    layer, options = case.bijection, case.options
    y, log_det = layer.transform_and_log_det(case.x, **options)
    assert case.close(y, case.y), "transform_and_log_det and transform give different y"
    called = layer(case.x, **options)
    assert case.close(called[0], y), "a call gives another y than transform_and_log_det"
    assert case.close(called[1], log_det), "a call gives another log-det"
    back, other = layer.inverse_and_log_det(case.y, **options)
    assert case.close(back, layer.inverse(case.y, **options)), "inverses differ"
    assert case.close(other, -log_det), f"log-dets of the directions are {log_det} and {other}"


def shapes_and_dtypes(case: Case) -> None:
    """Results are of the precision and on the device of x, log-dets one number per sample."""
    for call in case.calls():
        first, *rest = call(call.at(), case.context)
        assert first[0].numel() == case.x[0].numel(), f"{call.direction} changes the dimension"
        for result in (first, *rest):
            found, wanted = (result.dtype, result.device), (case.x.dtype, case.x.device)
            assert found == wanted, f"{call.direction}: expected {wanted}, got {found}"
        shapes = [t.shape for t in rest]
        assert all(shape == case.x.shape[:1] for shape in shapes), f"log-dets of shape {shapes}"


def log_det_is_that_of_the_jacobian(case: Case) -> None:
    """Both directions against the dense Jacobian, and the two Jacobians are inverses."""
    layer, options = case.bijection, case.options
    matrices: list[Tensor] = []
    for call in case.calls():
        if not call.with_log_det:
            continue
        point, direction = call.at(), call.direction
        matrix = jacobian(layer, point, direction=direction, **options)
        reported = call(point, case.context)[1].detach()
        exact: Tensor = torch.linalg.slogdet(matrix).logabsdet
        assert case.close(exact, reported), (
            f"{direction}: log-dets {reported.tolist()}, of the Jacobian {exact.tolist()}"
        )
        matrices.append(matrix)
    identity = torch.eye(matrices[0].shape[1], dtype=case.x.dtype, device=case.x.device)
    product = matrices[0] @ matrices[1]
    assert torch.allclose(product, identity.expand_as(product), atol=1e-7), (
        "the Jacobians of the two directions are not each other's inverse"
    )


def bounds_hold(case: Case) -> None:
    """No Jacobian stretches more than the bounds of its direction say."""
    bounds = case.bijection.bounds()
    for call in case.calls():
        direction, point = call.direction, call.at()
        bound = bounds.transform if direction == "transform" else bounds.inverse
        matrix = jacobian(case.bijection, point, direction=direction, **case.options)
        seen = float(torch.linalg.matrix_norm(matrix, 2).max())
        assert seen <= bound * (1 + 1e-9), f"{direction} stretches by {seen}, bound {bound}"
    for call in case.calls():
        if not call.with_log_det:
            _local_bounds_hold(case, call)


def _local_bounds_hold(case: Case, call: Call) -> None:
    """Those on the smallest domain that has the samples, whose images it must place."""
    there, back = (case.x, case.y) if call.direction == "transform" else (case.y, case.x)
    domain = Domain.around(there, case.context)
    bounds, image = case.bijection.bounds_on(domain, call.direction)
    limits = {"transform": bounds.transform, "inverse": bounds.inverse}
    for direction in get_args(Direction):
        point, bound = case.x if direction == "transform" else case.y, limits[direction]
        matrix = jacobian(case.bijection, point, direction=direction, **case.options)
        seen = float(torch.linalg.matrix_norm(matrix, 2).max())
        assert seen <= bound * (1 + 1e-9), f"{direction} on {domain}: {seen}, bound {bound}"
    assert image.shape == tuple(back.shape[1:]), f"the image has shape {image.shape}"
    found = Domain.around(back)
    spare = 1e-9 * (1 + found.largest)
    assert image.lower <= found.lower + spare, f"{found} is not within {image}"
    assert image.upper >= found.upper - spare, f"{found} is not within {image}"
    assert image.norm >= found.norm - spare, f"{found} is not within {image}"


def first_derivatives(case: Case) -> None:
    """First derivatives by input, context and all parameters, of both directions."""
    for module, point in ((case.bijection, case.x), (Invert(case.bijection), case.y)):
        named = {name: p.detach() for name, p in module.named_parameters()}
        flat = torch.cat([point.new_zeros(1), *(p.flatten() for p in named.values())])
        given = point.new_zeros(1) if case.context is None else case.context

        def run(
            point: Tensor,
            given: Tensor,
            flat: Tensor,
            module: torch.nn.Module = module,
            named: dict[str, Tensor] = named,
        ) -> tuple[Tensor, Tensor]:
            pieces = torch.split(flat[1:], [p.numel() for p in named.values()])
            pairs = zip(named.items(), pieces, strict=True)
            state = {name: piece.view_as(p) for (name, p), piece in pairs}
            context = None if case.context is None else given
            options = {"context": context, "using": case.using}
            y, log_det = functional_call(module, state, (point,), options)
            # A term without effect, for layers that lack parameters or a context.
            return y + 0 * flat[0], log_det + 0 * given.flatten()[0]

        inputs = [t.detach().clone().requires_grad_() for t in (point, given, flat)]
        assert torch.autograd.gradcheck(
            run, inputs, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True, check_undefined_grad=False
        )


def autocast_rounds_no_gradient(case: Case) -> None:
    """A call and its backward pass inside autocast give what they give outside."""
    parameters = [p for p in case.bijection.parameters() if p.requires_grad]
    for call in case.calls():

        def gradients(call: Call = call, *, half: bool) -> Sequence[Tensor]:
            leaves = [call.at().detach().clone().requires_grad_(), *parameters]
            with torch.autocast(case.x.device.type, torch.bfloat16, enabled=half):
                results = call(leaves[0], case.context)
                loss = torch.stack([result.square().sum() for result in results]).sum()
                return torch.autograd.grad(loss, leaves, materialize_grads=True)

        for expected, found in zip(gradients(half=False), gradients(half=True), strict=True):
            size = float(expected.abs().amax()) if expected.numel() else 0.0
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * size), (
                f"{call.direction}: autocast changes a gradient of shape {tuple(expected.shape)}"
            )


def samples_are_independent(case: Case) -> None:
    """A sample gives the same alone and among others."""
    for call in case.calls():
        point, context = call.at(), case.context
        whole = call(point, context)
        alone = call(point[1:2], None if context is None else context[1:2])
        for one, other in zip(alone, whole, strict=True):
            assert case.close(one, other[1:2]), f"{call.direction}: samples are not independent"


def context_reaches_its_own_sample(case: Case) -> None:
    """A change of the context of one sample changes that sample and no other."""
    if case.context is None:
        return
    changed = case.context.clone()
    changed[0] += 1
    matters = False
    for call in case.calls():
        point = call.at()
        for one, other in zip(call(point, case.context), call(point, changed), strict=True):
            matters = matters or not case.close(one[:1], other[:1])
            assert case.close(one[1:], other[1:]), f"{call.direction}: context of another sample"
    # Conditioners may begin as zero.
    assert matters or _matters_elsewhere(case, changed), "the context has no effect"


@torch.no_grad()
def _matters_elsewhere(case: Case, changed: Tensor) -> bool:
    """Whether a context has an effect for other parameters than the present ones."""
    with torch.random.fork_rng(devices=[]):
        for parameter in case.fresh.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    update_lipschitz(case.fresh)
    one = case.fresh.transform(case.x, context=case.context, using=case.using)
    return not case.close(one, case.fresh.transform(case.x, context=changed, using=case.using))


def frozen_parameters_leave_input_gradients(case: Case) -> None:
    """Gradients by the input do not need parameters that are trained."""

    def found() -> list[Tensor]:
        grads: list[Tensor] = []
        for call in case.calls():
            point = call.at().clone().requires_grad_()
            total = torch.stack([t.sin().sum() for t in call(point, case.context)]).sum()
            grads.append(torch.autograd.grad(total, point)[0])
        return grads

    wanted = [p.requires_grad for p in case.bijection.parameters()]
    trained = found()
    case.bijection.requires_grad_(False)
    frozen = found()
    for p, w in zip(case.bijection.parameters(), wanted, strict=True):
        p.requires_grad_(w)
    pairs = zip(trained, frozen, strict=True)
    assert all(case.close(a, b) for a, b in pairs), "gradients by the input need the parameters"


def _off(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.shape == other.shape else float("nan")
