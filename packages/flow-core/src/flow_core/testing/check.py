"""One call that holds a bijection to its contract."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from flow_core.bijection import Bijection
from flow_core.settings import Settings
from flow_core.testing import behaviour, numbers, tools
from flow_core.testing.case import Case, case_of

SINGLE, DOUBLE = (torch.float32,), (torch.float64,)
BOTH = (*SINGLE, *DOUBLE)

CHECKS: dict[str, tuple[Callable[[Case], None], tuple[torch.dtype, ...]]] = {
    "round trip": (numbers.directions_undo_each_other, BOTH),
    "methods agree": (numbers.methods_agree, BOTH),
    "shapes and dtypes": (numbers.shapes_and_dtypes, BOTH),
    "log-det": (numbers.log_det_is_that_of_the_jacobian, DOUBLE),
    "bounds": (numbers.bounds_hold, DOUBLE),
    "gradients": (numbers.first_derivatives, DOUBLE),
    "autocast": (numbers.autocast_rounds_no_gradient, SINGLE),
    "independent samples": (numbers.samples_are_independent, SINGLE),
    "context": (numbers.context_reaches_its_own_sample, SINGLE),
    "frozen parameters": (numbers.frozen_parameters_leave_input_gradients, DOUBLE),
    "arguments": (behaviour.arguments_are_checked, SINGLE),
    "parts": (behaviour.parts_get_the_pass, SINGLE),
    "unchanged state": (behaviour.state_is_unchanged, SINGLE),
    "empty batch": (behaviour.empty_batch, BOTH),
    "memory layout": (behaviour.memory_layout_does_not_matter, SINGLE),
    "copies": (behaviour.copies_are_equal, SINGLE),
    "no graph": (behaviour.no_graph_without_gradients, SINGLE),
    "checkpointing": (tools.checkpointing, DOUBLE),
    "functional transforms": (tools.functional_transforms, DOUBLE),
    "compilation": (tools.compilation, SINGLE),
}
"""Every check by its name, with the precisions that it is made in."""


def check_bijection(
    bijection: Bijection,
    x: Tensor,
    *,
    context: Tensor | None = None,
    using: Settings | None = None,
    leave_out: Collection[str] = (),
) -> None:
    """Hold a bijection to the contract that every class of this package keeps.

    Round trips, log-determinants of both directions against dense Jacobians, bounds, gradients
    (inside autocast too), refused arguments, unchanged state, contexts, empty and strided batches,
    precisions, copies and pickles, recomputation; `torch.compile` and `torch.func` where nothing is
    solved. The bijection
    itself is not changed: copies in float32 and float64 are checked. In float64, solves go to a
    relative tolerance of 1e-13 unless `using` says how. "compilation" makes torch forget what this
    process has compiled.

    Args:
        bijection: A layer or model, initialized.
        x: Some samples, two at least; of small dimension, as dense Jacobians are made.
        context: Where it uses one.
        using: Settings of all calls; deterministic ones.
        leave_out: Names in `CHECKS` that are not for this bijection.

    Raises:
        AssertionError: If a promise is not kept, with a note that names the check.
        ValueError: If there are fewer than two samples, or a check to leave out does not exist.
    """
    if unknown := set(leave_out) - CHECKS.keys():
        raise ValueError(f"expected names of checks, {', '.join(CHECKS)}; got {sorted(unknown)}")
    if x.ndim == 0 or len(x) < 2:
        raise ValueError(f"expected at least two samples, got x of shape {tuple(x.shape)}")
    for name, (check, dtypes) in CHECKS.items():
        for dtype in dtypes if name not in leave_out else ():
            try:
                check(case_of(bijection, x, context, using, dtype))
            except Exception as error:
                error.add_note(f"in the check {name!r} of {type(bijection).__name__}, {dtype}")
                raise
