"""Checks that torch's tools work on a bijection."""

from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flow_core.combinators import Invert
from flow_core.jacobian import jacobian
from flow_core.testing.case import Case


def checkpointing(case: Case) -> None:
    """Recomputed or not, values and gradients are the same: to the bit where nothing is solved."""
    for module, point in ((case.bijection, case.x), (Invert(case.bijection), case.y)):
        plain = _values_and_gradients(module, point, case, recompute=False)
        again = _values_and_gradients(module, point, case, recompute=True)
        for one, other in zip(plain, again, strict=True):
            same = case.close(one, other) if case.solves else torch.equal(one, other)
            assert same, f"checkpointing changes a result by {(one - other).abs().max()}"


def compilation(case: Case) -> None:
    """`torch.compile` makes one graph of it, with equal numbers, where nothing is solved."""
    if case.solves:
        return
    layer, options = case.bijection, case.options
    for method, point in (
        (layer.transform_and_log_det, case.x),
        (layer.inverse_and_log_det, case.y),
    ):
        torch.compiler.reset()
        compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
        pairs = zip(compiled(point, **options), method(point, **options), strict=True)
        assert all(case.close(a, b) for a, b in pairs), "compiled results differ"


def functional_transforms(case: Case) -> None:
    """`torch.func` works sample by sample, where nothing is solved."""
    if case.solves:
        return

    def one(x: Tensor, context: Tensor | None) -> Tensor:
        given = None if context is None else context[None]
        return case.bijection.transform(x[None], context=given, using=case.using)[0]

    mapped = torch.func.vmap(torch.func.jacrev(one), (0, None if case.context is None else 0))
    found = cast(Tensor, mapped(case.x, case.context)).detach()
    expected = jacobian(case.bijection, case.x, context=case.context, using=case.using)
    assert case.close(found.reshape(expected.shape), expected), "vmap of jacrev differs"


def _values_and_gradients(
    module: torch.nn.Module, point: Tensor, case: Case, *, recompute: bool
) -> list[Tensor]:
    x = point.clone().requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor]", module(x, context=case.context, using=case.using))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y, log_det = checkpoint(run, x, use_reentrant=False) if recompute else run(x)
    loss = y.sin().sum() + log_det.cos().sum()
    grads = torch.autograd.grad(loss, [x, *parameters], materialize_grads=True)
    return [t.detach() for t in (y, log_det, *grads)]
