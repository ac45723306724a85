"""Checks of what a bijection refuses, keeps and leaves alone."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.passes import Pass
from flow_core.testing.case import Case, attributes


def arguments_are_checked(case: Case) -> None:
    """What the layer is not made for is one ValueError that names it."""
    layer, context = case.bijection, case.context
    _refused(case, "integers", lambda: layer.transform(case.x.long(), context=context))
    _refused(case, "a number", lambda: layer.transform(case.x.sum(), context=context))
    if layer.event_shape is not None:
        _refused(case, "no batch dimension", lambda: layer.transform(case.x[0], context=context))
        more = torch.cat([case.x, case.x[:, :1]], 1) if case.x.ndim > 1 else case.x[:, None]
        if None not in layer.event_shape:
            _refused(case, "another shape", lambda: layer.transform(more, context=context))
    if layer.output_shape is not None:
        _refused(case, "no batch dimension", lambda: layer.inverse(case.y[0], context=context))
    if context is None:
        other = case.x.new_zeros(len(case.x), 1)
        _refused(case, "a useless context", lambda: layer.transform(case.x, context=other))
    else:
        _refused(case, "no context", lambda: layer.transform(case.x))
        _refused(case, "few contexts", lambda: layer.transform(case.x, context=context[:1]))


def state_is_unchanged(case: Case) -> None:
    """No call changes a parameter, a buffer, an attribute of a module or its input."""
    layer, context = case.fresh, case.context
    state = copy.deepcopy(layer.state_dict())
    given = copy.deepcopy((case.x, case.y, context))
    for mode in (True, False):
        layer.train(mode)
        before = attributes(layer)
        layer.inverse_and_log_det(case.y, context=context, using=case.using)
        layer.inverse(layer.transform(case.x, context=context, using=case.using), **case.options)
        layer(case.x, **case.options)
        after = attributes(layer)
        changed = [k for k, v in after.items() if k not in before or before[k] is not v]
        assert not changed, f"a call changes {', '.join(sorted(changed))}"
    now = layer.state_dict()
    assert state.keys() == now.keys(), "calls change the names of the state"
    for key, value in state.items():
        assert torch.equal(value, now[key]), f"a call changes {key}"
    torch.testing.assert_close((case.x, case.y, case.context), given, rtol=0, atol=0)


def empty_batch(case: Case) -> None:
    """No samples give no results, of the right shapes."""
    none = None if case.context is None else case.context[:0]
    for call in case.calls():
        point = call.at()
        first, *log_dets = call(point[:0], none)
        other = case.y if call.direction == "transform" else case.x
        assert first.shape == other[:0].shape, f"{call.direction} of no samples: {first.shape}"
        assert all(t.shape == (0,) for t in log_dets), "log-dets of no samples"


def memory_layout_does_not_matter(case: Case) -> None:
    """Inputs need not be contiguous."""
    for call in case.calls():
        point = call.at()
        strided = torch.stack([point, point], -1)[..., 0]
        pairs = zip(call(strided, case.context), call(point, case.context), strict=True)
        assert all(case.close(a, b) for a, b in pairs), f"{call.direction} of strided input"


def copies_are_equal(case: Case) -> None:
    """A deepcopy, a pickle and a loaded state give the same numbers."""
    layer, options = case.bijection, case.options
    copied = copy.deepcopy(layer)
    copied.load_state_dict(layer.state_dict())
    for other in (copied, pickle.loads(pickle.dumps(layer))):
        y, log_det = other(case.x, **options)
        expected = layer(case.x, **options)
        assert torch.equal(y, expected[0]), "a copy gives another y"
        assert torch.equal(log_det, expected[1]), "a copy gives another log-det"


def parts_get_the_pass(case: Case) -> None:
    """A layer that calls others passes `how` on, and with it settings, context and reports."""
    outside: list[str] = []

    def watch(name: str, _layer: object, _inputs: object, options: dict[str, object]) -> None:
        how = options.get("how")
        if not (isinstance(how, Pass) and how.begun):
            outside.append(name)

    parts = [
        (name, m) for name, m in case.bijection.named_modules() if name and isinstance(m, Bijection)
    ]
    hooks = [m.register_forward_pre_hook(partial(watch, n), with_kwargs=True) for n, m in parts]
    for call in case.calls():
        call(call.at(), case.context)
    for hook in hooks:
        hook.remove()
    assert not outside, f"{sorted(set(outside))} are called without how"


def no_graph_without_gradients(case: Case) -> None:
    """Under no_grad nothing keeps a graph, and the numbers are the same."""
    for call in case.calls():
        expected = call(call.at(), case.context)
        with torch.no_grad():
            results = call(call.at(), case.context)
        assert not any(t.requires_grad for t in results), f"{call.direction} keeps a graph"
        pairs = zip(results, expected, strict=True)
        assert all(case.close(a, b) for a, b in pairs), f"{call.direction} differs under no_grad"


def _refused(case: Case, what: str, call: Callable[[], Tensor]) -> None:
    name, error = type(case.bijection).__name__, _error_of(call)
    assert error is not None, f"{name} accepts {what}"
    told = [str(error), *getattr(error, "__notes__", [])]
    assert any(name in text or "in layer" in text for text in told), (
        f"the error for {what} does not name {name}: {error}"
    )


def _error_of(call: Callable[[], Tensor]) -> ValueError | None:
    try:
        call()
    except ValueError as error:
        return error
    return None
