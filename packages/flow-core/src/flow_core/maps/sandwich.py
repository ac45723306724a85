"""Nets that are Lipschitz by construction: no norm is estimated, and nothing has to be updated."""

from collections.abc import Hashable, Sequence
from math import log, sqrt
from typing import cast, final

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float64
from torch import Tensor, nn

from flow_core.lipschitz import Activation
from flow_core.lipschitz.activations import make_slope_restricted
from flow_core.lipschitz.certify import finite
from flow_core.maps.bound_activation import bind_activation
from flow_core.maps.bound_net import BoundNet
from flow_core.maps.cayley import cayley
from flow_core.maps.joins import REPLACE
from flow_core.maps.lipschitz_map import LipschitzMap
from flow_core.maps.net_map import NetMap
from flow_core.maps.sandwich_layer import Sandwich, Weights, folded, lipschitz_bound

LARGEST_LOG_SCALE = 5.0


@final
class SandwichNet(NetMap):
    """G(x) = √γ·g·S(√γ·x), where the layers of S have Lipschitz constant 1 by construction.

    A layer is h -> √2·A p σ(√2·p⁻¹ Bᵀ h + b), where V = [A; B] is a contraction and σ has slopes S
    in [0, 1]: 2uᵀA S Bᵀv ≤ ½|Vᵀ(u, v)|² ≤ 1 for unit u and v. V is the Cayley transform of free
    parameters, so that no parameters break the bound, and nothing is updated after a step. (With
    parameters beyond 1e5 the transform loses its digits, which the certificate counts.)
    The bound is the tightest known for such nets, which use it, where a product of spectral norms
    leaves most of it unused. The gain g in (0, 1) is learned.

    The layers fold into a plain net: in float64, whose weights are then rounded.

    Args:
        features: Of a vector.
        widths: Of the hidden layers.
        lipschitz: γ, in (0, 1).
        activation: With slopes in [0, 1]: a name in `flow_core.lipschitz.SLOPE_RESTRICTED`, or an
            instance, of which every layer gets a copy.
        gain: Where g starts; a small one starts near the identity and keeps from overfitting.
        context_features: Features of the context, which shifts every pre-activation and so leaves
            the Lipschitz constant alone; None for no context.

    Raises:
        ValueError: A size is below 1, `lipschitz` or `gain` is outside of its interval, or the
            activation has other slopes.

    Source: Wang and Manchester 2023, "Direct Parameterization of Lipschitz-Bounded Deep Networks",
    §3, for square A; any contraction will do, so the last A has as many rows as there are features.
    """

    def __init__(
        self,
        features: int,
        widths: Sequence[int] = (16, 16),
        *,
        lipschitz: float = 0.99,
        activation: str | Activation = "staircase",
        gain: float = 0.9,
        context_features: int | None = None,
    ) -> None:
        if not widths or min(features, *widths) < 1:
            raise ValueError(f"expected positive sizes, got features={features}, widths={widths}")
        if not 0 < lipschitz < 1:
            raise ValueError(f"expected 0 < lipschitz < 1, got {lipschitz}")
        if not 0 < gain < 1:
            raise ValueError(f"expected 0 < gain < 1, got {gain}")
        super().__init__((features,))
        self.lipschitz = lipschitz
        self.outputs = (*widths[:-1], features)
        reads = (features, *widths[:-1])
        sizes = zip(self.outputs, reads, widths, strict=True)
        self.free = nn.ParameterList(torch.randn(o + m, k) / sqrt(k) for o, m, k in sizes)
        self.log_scales = nn.ParameterList(torch.zeros(k) for k in widths)
        self.shifts = nn.ParameterList(2 * torch.rand(k) - 1 for k in widths)
        self.last_shift = nn.Parameter(torch.zeros(features))
        self.raw_gain = nn.Parameter(torch.tensor(log(gain / (1 - gain))))
        self.activations = nn.ModuleList(make_slope_restricted(activation) for _ in widths)
        self.take_context(context_features, widths, None)

    def bind_weights(self) -> BoundNet:
        """Fold the layers."""
        return self.bind_group([self])[0]

    def binding_key(self) -> Hashable | None:
        """Kinds of parameters, and γ: Cayley transforms are made in batches, at any width."""
        own = [*self.free, *self.log_scales, self.raw_gain]
        # Sharded parameters are of another type; they are whole only while their layer is called.
        if any(type(p) not in (nn.Parameter, Tensor) for p in own):
            return None
        return (*((p.shape, p.dtype, p.device, p.requires_grad) for p in own), self.lipschitz)

    def bind_group(self, maps: Sequence[LipschitzMap]) -> list[BoundNet]:
        """Fold the layers of equal nets together."""
        nets = [cast(SandwichNet, m) for m in maps]
        stacks = [w.to(self.last_shift).unbind() for w in _exact_weights(nets)]
        per_net = zip(*stacks, strict=True)
        return [net._bound(weights) for net, weights in zip(nets, per_net, strict=True)]

    @torch.no_grad()
    def certificate(self) -> float:
        """γ·g, and what rounding of V and of the folded weights can add, in float64.

        Raises:
            ValueError: Weights are not finite.
        """
        for parameter in (*self.free, *self.log_scales, self.raw_gain):
            finite(parameter)
        layers, (gain,) = _layers([self]), _gains([self])
        root, exact = sqrt(self.lipschitz), _exact_weights([self])
        rounded = [w.to(self.last_shift).to(w) for w in exact]
        return lipschitz_bound(layers, exact, rounded, root, root * float(gain))

    def extra_repr(self) -> str:
        """Sizes, constant and gain."""
        widths = [len(shift) for shift in self.shifts]
        return f"{self.outputs[-1]}, {widths}, lipschitz={self.lipschitz}"

    def _bound(self, weights: tuple[Tensor, ...]) -> BoundNet:
        return BoundNet(
            weights=weights,
            biases=(*self.shifts, self.last_shift),
            activations=tuple(bind_activation(cast(Activation, a)) for a in self.activations),
            join=REPLACE,
        )


def _exact_weights(nets: Sequence[SandwichNet]) -> Weights:
    root = sqrt(nets[0].lipschitz)
    return folded(_layers(nets), root, root * _gains(nets))


def _layers(nets: Sequence[SandwichNet]) -> list[Sandwich]:
    columns = zip(*(zip(net.free, net.log_scales, strict=True) for net in nets), strict=True)
    return [_layer(column, o) for column, o in zip(columns, nets[0].outputs, strict=True)]


def _layer(parameters: Sequence[tuple[Tensor, Tensor]], outputs: int) -> Sandwich:
    free, logs = (torch.stack(list(tensors)) for tensors in zip(*parameters, strict=True))
    bounded = LARGEST_LOG_SCALE * torch.tanh(in_float64(logs) / LARGEST_LOG_SCALE)
    return Sandwich(cayley(free), bounded.exp(), outputs)


def _gains(nets: Sequence[SandwichNet]) -> Float64[Tensor, " nets"]:
    return torch.sigmoid(in_float64(torch.stack([net.raw_gain for net in nets])))
