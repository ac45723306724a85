"""Log-determinants that keep no graph: one pass is rebuilt in backward.

Published codes compute the gradient in forward and multiply it by the weight of the first sample
in backward, which is wrong for every other sample. Here the point, the probes and the adjoint
vectors are kept, and backward rebuilds the linearization once, for the gradient of the value and
of the log-determinant together, with the weight of every sample.
"""

from dataclasses import dataclass
from typing import Any, cast, final

import torch
from flow_solvers import (
    KeptTensors,
    ParametricFunctional,
    Untransformed,
    leaves_of,
    refuse_batched,
    refuse_forward_mode,
    require_kind,
    without_autocast,
)
from flow_solvers.maps import BoundMap, Index, Linearization
from jaxtyping import Float
from torch import Tensor

from flow_logdet.estimator import LogDet
from flow_logdet.gradient import (
    Surrogate,
    is_differentiable,
    refuse_second_derivative,
    with_gradient,
)
from flow_logdet.kinds import Kind
from flow_logdet.stochastic import StochasticEstimator


@final
@dataclass(frozen=True)
class Recompute:
    """An estimator with the values and first derivatives of another one, without its graph.

    Linearizations made by it carry one log-determinant. Their `value` is differentiable once.

    Attributes:
        estimator: A stochastic estimator, for instance `Krylov()`.

    Raises:
        TypeError: If it is of another kind.
    """

    estimator: StochasticEstimator

    def __post_init__(self) -> None:
        # Only those have a graph to leave out.
        example = "a stochastic estimator such as Krylov()"
        require_kind("estimator", self.estimator, StochasticEstimator, example)

    def linearize(
        self, bound: BoundMap, w: Float[Tensor, " batch *shape"]
    ) -> "RecomputedLinearization":
        """A linearization whose graph is rebuilt in backward."""
        return RecomputedLinearization(bound, w)

    def log_det(self, linearization: Linearization, kind: Kind) -> LogDet:
        """The estimate of the wrapped estimator.

        Raises:
            ValueError: If the linearization was not made by `linearize` of a `Recompute`, or
                already carries a log-determinant.
        """
        if not isinstance(linearization, RecomputedLinearization):
            raise ValueError(  # noqa: TRY004  # the type is right, its origin is not
                "expected a linearization made by Recompute.linearize, got "
                f"{type(linearization).__name__}; linearize with the estimator that is used"
            )
        estimate = self.estimator.estimate(linearization.plain, kind)
        value, products = estimate.value, estimate.products
        if is_differentiable(linearization):
            with torch.no_grad():
                surrogate = estimate.surrogate(kind)
            value = with_gradient(value, linearization.attach(surrogate))
            products += surrogate.products
        return estimate.log_det(value, products)


class _Slot:
    """Where forward leaves the surrogate that backward differentiates."""

    def __init__(self) -> None:
        self._rule: ParametricFunctional | None = None
        self._constants: KeptTensors | None = None

    def leave(self, surrogate: Surrogate) -> None:
        """Keep it, unless there is one.

        Raises:
            ValueError: If there is.
        """
        if self._rule is not None:
            raise ValueError(
                "expected a linearization without a log-determinant; call Recompute.linearize "
                "again for a second one"
            )
        self._rule, self._constants = surrogate.rule, KeptTensors(surrogate.constants)

    def __call__(self, linearization: Linearization) -> Float[Tensor, " batch"] | None:
        """Its value, where there is one."""
        if self._rule is None or self._constants is None:
            return None
        return self._rule(linearization, *self._constants.tensors())


@final
class RecomputedLinearization:
    """A linearization without a graph that differentiates by building another one.

    `value` and the handle of the log-determinant are two outputs of one node, so that backward
    rebuilds once for both. Products are differentiable too, each at the price of a linearization.
    """

    def __init__(self, bound: BoundMap, point: Float[Tensor, " batch *shape"]) -> None:
        refuse_forward_mode(point, *bound.tensors())
        self.bound = bound
        self.point = point
        with torch.no_grad():
            self.plain: Linearization = bound.linearize(point.detach())
            # Not the tensor itself: as an output of the node it would lose the graph behind it,
            # by which a linearization may make its products.
            value = self.plain.value.detach()
        self._slot = _Slot()
        self.value, self._handle = _rebuild(value, bound, self._slot, point)

    def attach(self, surrogate: Surrogate) -> Float[Tensor, " batch"]:
        """A tensor of zeros whose gradient is that of the surrogate."""
        self._slot.leave(surrogate)
        return self._handle

    def jvp(self, tangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """J t."""
        return self._differentiable().jvp(tangent)

    def vjp(self, cotangent: Float[Tensor, "*probes"]) -> Float[Tensor, "*probes"]:
        """Jᵀ g."""
        return self._differentiable().vjp(cotangent)

    def jacobian(self) -> Float[Tensor, " batch dim dim"]:
        """J as a matrix per sample."""
        return self._differentiable().jacobian()

    def select(self, index: Index) -> "RecomputedLinearization":
        """The same for a subset of the batch, without a log-determinant."""
        return RecomputedLinearization(self.bound.select(index), self.point[index])

    def _differentiable(self) -> Linearization:
        return self.bound.linearize(self.point) if is_differentiable(self) else self.plain


def _rebuild(
    value: Tensor, bound: BoundMap, slot: _Slot, point: Tensor
) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch"]]:
    """`value` and a handle, as outputs of one node that depends on the map and the point."""
    return cast(
        tuple[Tensor, Tensor], _Rebuild.apply([value], bound, slot, point, *bound.tensors())
    )


class _Rebuild(Untransformed):
    @staticmethod
    def forward(
        value: list[Tensor], bound: BoundMap, slot: _Slot, point: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        # In a list, so that autograd takes it for a new tensor and not for an input.
        return value[0], point.new_zeros(len(point))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
        _, ctx.bound, ctx.slot, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        refuse_batched(*grad_outputs)
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        needed: tuple[bool, ...] = ctx.needs_input_grad[3:]
        with without_autocast(saved[0]), torch.enable_grad():
            aliases = leaves_of(saved, needed)
            linearization = ctx.bound.with_tensors(aliases[1:]).linearize(aliases[0])
            outputs = _outputs(linearization, ctx.slot, grad_outputs)
            gradients = _gradients(outputs, [a for a in aliases if a.requires_grad])
        found = iter(gradients)
        results = [next(found) if n else None for n in needed]
        anchors = [t for t in (*saved, *grad_outputs) if t is not None]
        return None, None, None, *(_guard(g, anchors) for g in results)


def _outputs(
    linearization: Linearization, slot: _Slot, cotangents: tuple[Tensor | None, ...]
) -> list[tuple[Tensor, Tensor]]:
    """What is differentiated, each with its cotangent."""
    of_value, of_log_det = cotangents
    outputs: list[tuple[Tensor, Tensor]] = []
    if of_value is not None:
        outputs.append((linearization.value, of_value))
    surrogate = None if of_log_det is None else slot(linearization)
    if of_log_det is not None and surrogate is not None:
        outputs.append((surrogate, of_log_det))
    return [(output, cotangent) for output, cotangent in outputs if output.requires_grad]


def _gradients(
    outputs: list[tuple[Tensor, Tensor]], inputs: list[Tensor]
) -> tuple[Tensor | None, ...]:
    if not outputs:
        return (None,) * len(inputs)
    return torch.autograd.grad(
        [output for output, _ in outputs],
        inputs,
        [cotangent for _, cotangent in outputs],
        allow_unused=True,
    )


def _guard(gradient: Tensor | None, anchors: list[Tensor]) -> Tensor | None:
    if gradient is None or not torch.is_grad_enabled():
        return gradient
    return refuse_second_derivative(gradient, *anchors)
