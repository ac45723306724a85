"""Any callable as a bound map, linearized by autograd."""

from collections.abc import Callable, Sequence
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor

from flow_solvers import samples
from flow_solvers.maps import Index

# The arities are spelled out for type checkers, which can then infer the arguments of a lambda.
# Any further tensors are for a function of (w, *tensors).
MapFunction = (
    Callable[[Tensor], Tensor]
    | Callable[[Tensor, Tensor], Tensor]
    | Callable[[Tensor, Tensor, Tensor], Tensor]
    | Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    | Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
)


@final
class FunctionMap:
    """G(w) = function(w, *tensors, *per_sample).

    The function must treat every sample on its own, and give the same at every evaluation: a solve
    refuses one that does not, so far as it can tell. Gradients reach `tensors` and `per_sample`
    only: whatever else the function closes over is a constant, and a solve warns of one that
    requires a gradient.

    Args:
        function: Keeps the shape of w.
        tensors: Parameters, shared by all samples.
        per_sample: Context or masks, with the batch as first dimension.
    """

    def __init__(
        self,
        function: MapFunction,
        tensors: Sequence[Tensor] = (),
        per_sample: Sequence[Tensor] = (),
    ) -> None:
        self._function = cast("Callable[..., Tensor]", function)
        self._tensors = tuple(tensors)
        self._per_sample = tuple(per_sample)

    @property
    def function(self) -> Callable[..., Tensor]:
        """What the map was made of."""
        return self._function

    def __call__(self, w: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """G(w).

        Raises:
            ValueError: A tensor of `per_sample` has another number of samples.
        """
        for tensor in self._per_sample:
            if tensor.shape[:1] != w.shape[:1]:
                raise ValueError(
                    f"expected per_sample tensors for {len(w)} samples, got one of shape "
                    f"{tuple(tensor.shape)}"
                )
        return self._function(w, *self._tensors, *self._per_sample)

    def linearize(self, w: Float[Tensor, " batch *shape"]) -> "AutogradLinearization":
        """G(w) with products by reverse mode; costs one evaluation that keeps its graph."""
        return AutogradLinearization(self, w)

    def select(self, index: Index) -> "FunctionMap":
        """The map for a subset of the batch."""
        chosen = [tensor[index] for tensor in self._per_sample]
        return type(self)(self._function, self._tensors, chosen)

    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters, then the tensors that belong to samples."""
        return self._tensors + self._per_sample

    def with_tensors(self, tensors: Sequence[Tensor]) -> "FunctionMap":
        """The same function of other tensors, in the order of `tensors()`."""
        shared = len(self._tensors)
        return type(self)(self._function, tensors[:shared], tensors[shared:])

    def __neg__(self) -> "FunctionMap":
        """The map -G."""
        function = self._function

        def opposite(*arguments: Tensor) -> Tensor:
            """-G, as a function."""
            return -function(*arguments)

        return type(self)(opposite, self._tensors, self._per_sample)


@final
class AutogradLinearization:
    """G at one point, with products from its autograd graph.

    Where gradients are on, products can be differentiated; where they are off, nothing that they
    return has a graph. A jvp is the derivative of a vjp with respect to its cotangent.
    """

    def __init__(self, bound: FunctionMap, point: Float[Tensor, " batch *shape"]) -> None:
        self._bound = bound
        self._point = point
        recorded = bound
        if not torch.is_grad_enabled():
            point = point.detach()
            recorded = bound.with_tensors([tensor.detach() for tensor in bound.tensors()])
        with torch.enable_grad():
            # An alias: the derivative is the partial one, even where a tensor depends on w.
            leaf = point.view_as(point) if point.requires_grad else point.detach()
            self._leaf = leaf if leaf.requires_grad else leaf.requires_grad_()
            self._output = recorded(self._leaf)

    @property
    def bound(self) -> FunctionMap:
        """The map that was linearized."""
        return self._bound

    @property
    def point(self) -> Float[Tensor, " batch *shape"]:
        """Where it was linearized."""
        return self._point

    @property
    def value(self) -> Float[Tensor, " batch *shape"]:
        """G(point)."""
        return self._output if torch.is_grad_enabled() else self._output.detach()

    def vjp(self, cotangent: Float[Tensor, " *probes"]) -> Float[Tensor, " *probes"]:
        """Jᵀ g, one backward pass for each probe."""
        return self._each(self._vjp, cotangent)

    def jvp(self, tangent: Float[Tensor, " *probes"]) -> Float[Tensor, " *probes"]:
        """J t, two backward passes for each probe."""
        return self._each(self._jvp, tangent)

    def jacobian(self) -> Float[Tensor, " batch dim dim"]:
        """J per sample, one row for each backward pass."""
        batch, dim = samples.flat(self._point).shape
        eye = torch.eye(dim, dtype=self._point.dtype, device=self._point.device)
        units = eye.unsqueeze(1).expand(dim, batch, dim).reshape(dim, *self._point.shape)
        return self.vjp(units).reshape(dim, batch, dim).transpose(0, 1)

    def select(self, index: Index) -> "AutogradLinearization":
        """The linearization for a subset of the batch; costs one evaluation on the subset."""
        return AutogradLinearization(self._bound.select(index), self._point[index])

    def _each(
        self, product: Callable[[Tensor], Tensor], probes: Float[Tensor, " *probes"]
    ) -> Float[Tensor, " *probes"]:
        shape = self._point.shape
        if probes.shape == shape:
            return product(probes)
        if probes.shape[probes.dim() - len(shape) :] != shape:
            raise ValueError(
                f"expected probes of shape (*probes, {', '.join(map(str, shape))}), got "
                f"{tuple(probes.shape)}"
            )
        count = probes.shape[: probes.dim() - len(shape)].numel()
        rows = [product(probe) for probe in probes.reshape(count, *shape)]
        return torch.stack(rows).reshape(probes.shape) if rows else torch.zeros_like(probes)

    def _vjp(self, cotangent: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        return _derivative(self._output, self._leaf, cotangent, torch.is_grad_enabled())

    def _jvp(self, tangent: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            # The product is linear in the cotangent, so that any cotangent serves.
            cotangent = torch.zeros_like(self._output, requires_grad=True)
            transposed = _derivative(self._output, self._leaf, cotangent, True)
        return _derivative(transposed, cotangent, tangent, differentiable)


def _derivative(
    output: Float[Tensor, " batch *shape"],
    point: Float[Tensor, " batch *shape"],
    cotangent: Float[Tensor, " batch *shape"],
    create_graph: bool,
) -> Float[Tensor, " batch *shape"]:
    if not output.requires_grad:
        return torch.zeros_like(point)
    (product,) = torch.autograd.grad(
        output,
        point,
        cotangent,
        retain_graph=True,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return product
