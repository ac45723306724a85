"""An honest value with the gradient of a surrogate, and a refusal of second derivatives.

tr f(J) has the derivative tr(f'(J) dJ) = E⟨f'(J)ᵀε, dJ ε⟩. With v = f'(J)ᵀε held constant this is
the derivative of the surrogate ⟨v, J(θ, w)ε⟩, one differentiable product with J. The surrogate's
own value is no log-determinant, and its second derivative is not that of a log-determinant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from flow_solvers import ParametricFunctional, Untransformed, without_autocast_backward
from flow_solvers.maps import Linearization
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from flow_logdet.estimator import LogDet
from flow_logdet.first_order import control, first_order_of
from flow_logdet.kinds import Kind
from flow_logdet.probes import inner


@dataclass(frozen=True)
class Pairs:
    """The constants of a surrogate Σ ⟨v, J ε⟩.

    Attributes:
        adjoints: v, with all averaging weights in it.
        directions: ε.
        products: Products with J that were needed to make them.
    """

    adjoints: Float[Tensor, " pairs batch *shape"]
    directions: Float[Tensor, " pairs batch *shape"]
    products: int = 0


@dataclass(frozen=True)
class Surrogate:
    """A function of a linearization whose first derivative is that of the log-determinant.

    Attributes:
        pairs: Its constants.
        kind: Which log-determinant.
        controlled: Probes of the control variate, or None.
    """

    pairs: Pairs
    kind: Kind
    controlled: Float[Tensor, " count groups batch *shape"] | None

    @property
    def products(self) -> int:
        """Products with J: those behind the constants and the one that carries the graph."""
        return self.pairs.products + len(self.pairs.directions)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """All of its tensors, for `rule`."""
        controlled = () if self.controlled is None else (self.controlled,)
        return (self.pairs.adjoints, self.pairs.directions, *controlled)

    @property
    def rule(self) -> ParametricFunctional:
        """The same function of a linearization and the constants; it holds none of them."""
        return partial(_surrogate, self.kind)

    def __call__(self, linearization: Linearization) -> Float[Tensor, " batch"]:
        """Its value, differentiable in the map and the point."""
        return self.rule(linearization, *self.constants)


def _surrogate(
    kind: Kind,
    linearization: Linearization,
    adjoints: Float[Tensor, " pairs batch *shape"],
    directions: Float[Tensor, " pairs batch *shape"],
    controlled: Float[Tensor, " count groups batch *shape"] | None = None,
) -> Float[Tensor, " batch"]:
    """Σ ⟨v, J ε⟩ + f'(0)·(tr J₁ - mean εᵀJ₁ε)."""
    value = inner(adjoints, linearization.jvp(directions)).sum(0)
    if controlled is not None:
        value = value + control(first_order_of(linearization), kind, controlled)
    return value


@dataclass(frozen=True)
class Estimate:
    """A log-determinant without a graph, and how to get its gradient.

    Attributes:
        value: The honest value.
        standard_error: Of the value, or None.
        bias: About its largest bias, or None.
        products: Products spent on the value.
        pairs: Makes the constants of the surrogate; called only where a gradient is wanted.
        controlled: Probes of the control variate, or None.
    """

    value: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"] | None
    bias: Float[Tensor, " batch"] | None
    products: int
    pairs: Callable[[], Pairs]
    controlled: Float[Tensor, " count groups batch *shape"] | None

    def surrogate(self, kind: Kind) -> Surrogate:
        """The function whose derivative the value gets."""
        return Surrogate(pairs=self.pairs(), kind=kind, controlled=self.controlled)

    def log_det(self, value: Float[Tensor, " batch"], products: int) -> LogDet:
        """The result: a value that has the gradient, and all products."""
        return LogDet(
            value=value, standard_error=self.standard_error, products=products, bias=self.bias
        )


def is_differentiable(linearization: Linearization) -> bool:
    """Whether a gradient can be asked of functions of this linearization."""
    leaves = (linearization.point, *linearization.bound.tensors())
    return torch.is_grad_enabled() and any(t.requires_grad for t in leaves)


def keep_precision(value: Float[Tensor, " batch"], linearization: Linearization) -> None:
    """Let the backward pass of a log-determinant round nothing, even where autocast is on."""
    ends = (linearization.point, *linearization.bound.tensors())
    without_autocast_backward((value,), ends)


def with_gradient(
    value: Float[Tensor, " batch"], surrogate: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """`value`, with the first derivative of `surrogate`; a second derivative raises."""
    function = _WithGradient if torch.compiler.is_compiling() else _EagerWithGradient
    return cast(Tensor, function.apply(value, surrogate))


def refuse_second_derivative(gradient: Tensor, *anchors: Tensor) -> Tensor:
    """`gradient`, raising when it is differentiated towards anything that `anchors` depend on."""
    function = _Refuse if torch.compiler.is_compiling() else _EagerRefuse
    return cast(Tensor, function.apply(gradient, *anchors))


class _WithGradient(Function):
    @staticmethod
    def forward(value: Tensor, surrogate: Tensor) -> Tensor:
        return value.to(surrogate.dtype, copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401
        return None, refuse_second_derivative(grad_outputs[0], *ctx.saved_tensors)


class _Refuse(Function):
    @staticmethod
    def forward(gradient: Tensor, *anchors: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: object, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "a stochastic log-determinant has no second derivative; use flow_logdet.Exact where "
            "gradients of gradients are needed"
        )


# Compilers accept no Function that has a rule for forward mode, not even one that refuses it.
class _EagerWithGradient(Untransformed, _WithGradient): ...


class _EagerRefuse(Untransformed, _Refuse): ...
