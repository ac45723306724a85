"""Nets of Lipschitz layers: dense ones of i-DenseNets, plain ones of Residual Flows."""

from collections.abc import Hashable, Sequence
from math import sqrt
from typing import ClassVar, cast, final

import torch
from flow_solvers import SMALL_DIMENSION, require_integer, require_kind
from flow_solvers.precision import in_float64
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.lipschitz import (
    Activation,
    LipschitzConv2d,
    LipschitzLayer,
    LipschitzLinear,
    make_activation,
)
from flow_core.lipschitz.batching import notice_forgotten_update
from flow_core.lipschitz.layer import norms
from flow_core.maps.bound_activation import bind_activation
from flow_core.maps.bound_net import BoundNet
from flow_core.maps.effective import concatenation, effective, input_scales
from flow_core.maps.joins import CONCATENATE, REPLACE, Join
from flow_core.maps.lipschitz_map import LipschitzMap
from flow_core.maps.net_map import NetMap
from flow_core.maps.residual_conditioner import ResidualConditioner


class LipschitzNet(NetMap):
    """Lipschitz layers with activations between them, and a rule of how layers join.

    Attributes:
        join: The rule, the same for all nets of a class.
    """

    join: ClassVar[Join]

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int],
        kernels: Sequence[int] | None,
        *,
        activation: str | Activation,
        coeff: float,
        map_size: tuple[int, int] | None,
        context_features: int | None,
        preact: bool = False,
        entrance: int | None = None,
        zero_init: bool = False,
        bias: bool = True,
    ) -> None:
        """Make layers; `kernels` has one size more than there are hidden layers."""
        super().__init__((channels, *(map_size or ())))
        self.activations = nn.ModuleList(make_activation(activation) for _ in hidden)
        self.preact = make_activation(activation) if preact else None
        copies = self._activations()[0].expansion
        if any(width % copies for width in hidden):
            raise ValueError(
                f"expected a growth, or hidden widths, that {activation} can halve, got "
                f"{list(hidden)}; use even ones"
            )
        first = channels * (copies if preact else 1)
        written = [width // copies for width in hidden]
        self.entrance = None if entrance is None else _layer(first, entrance, 1, map_size, coeff)
        inputs = self.join.inputs(first if entrance is None else entrance, hidden)
        self.layers = nn.ModuleList(
            _layer(
                reads,
                writes,
                kernel,
                map_size,
                coeff,
                zero_init=zero_init and i == len(hidden),
                bias=bias,
            )
            for i, (reads, writes, kernel) in enumerate(
                zip(inputs, [*written, channels], kernels or [1] * len(inputs), strict=True)
            )
        )
        self.take_context(context_features, written, map_size)

    def bind_weights(self) -> BoundNet:
        """Normalise the weights."""
        return self._bound(tuple(layer.effective()[0] for layer in self._layers()))

    def binding_key(self) -> Hashable | None:
        """Shapes, bounds and kinds of parameters, in small dimension."""
        shape, layers = cast(torch.Size, self.event_shape), self._layers()
        weights = [layer.weight for layer in layers]
        # Sharded parameters are of another type; they are whole only while their layer is called.
        if len(shape) > 1 or shape[0] > SMALL_DIMENSION or not all(map(_is_plain, weights)):
            return None
        return (*map(_kind, weights), *(layer.coeff for layer in layers))

    def bind_group(self, maps: Sequence[LipschitzMap]) -> list[BoundNet]:
        """Normalise the weights of equal nets together."""
        nets = [cast(LipschitzNet, m) for m in maps]
        columns = list(zip(*(net._layers() for net in nets), strict=True))
        raw = [_stacked([layer.weight for layer in column]) for column in columns]
        sigmas = [
            norms(weight, _stacked([layer.direction for layer in column]))
            for weight, column in zip(raw, columns, strict=True)
        ]
        # One layer tells: an update follows all layers of a net.
        notice_forgotten_update(columns[-1], sigmas[-1])
        weights = effective(
            raw,
            sigmas,
            [layer.coeff for layer in self._layers()],
            self._input_scales(nets),
        )
        per_net = zip(*(stack.unbind() for stack in weights), strict=True)
        return [net._bound(own) for net, own in zip(nets, per_net, strict=True)]

    def certificate(self) -> float:
        """Π of what each layer with its activation can stretch, with certified norms."""
        bound = 1.0 if self.preact is None else self.preact.lipschitz
        bound *= 1.0 if self.entrance is None else self.entrance.certificate()
        *layers, last = self._layers()
        for i, (layer, activation) in enumerate(zip(layers, self._activations(), strict=True)):
            bound *= self._stretch(i, layer.certificate() * activation.lipschitz)
        return bound * last.certificate()

    def _stretch(self, i: int, gain: float) -> float:
        """What joining the output of layer i stretches, where that of the layer itself is known."""
        del i
        return gain

    def _input_scales(self, nets: "Sequence[LipschitzNet]") -> Sequence[Tensor] | None:
        """Factors of the columns of every layer's weights, stacked over nets; None for ones."""
        del nets
        return None

    def _bound(self, weights: tuple[Tensor, ...]) -> BoundNet:
        # An entrance always has a bias.
        entrance = None if self.entrance is None else self.entrance.effective()
        return BoundNet(
            weights=weights,
            biases=tuple(_bias(layer) for layer in self._layers()),
            activations=tuple(bind_activation(a) for a in self._activations()),
            join=self.join,
            preact=None if self.preact is None else bind_activation(self.preact),
            entrance=cast("tuple[Tensor, Tensor] | None", entrance),
        )

    def _layers(self) -> list[LipschitzLayer]:
        return [cast(LipschitzLayer, layer) for layer in self.layers]

    def _activations(self) -> list[Activation]:
        return [cast(Activation, a) for a in self.activations]


@final
class DenseNet(LipschitzNet):
    """G of i-DenseNets: `depth` dense layers and a last (1x1) layer back to the input size.

    Args:
        channels: Features of a vector, or channels of an image.
        growth: Channels that every dense layer adds (before halving for concatenating ones).
        depth: Number of dense layers.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`, or an instance,
            of which every layer gets a copy.
        coeff: Bound on the spectral norm of every layer, in (0, 1).
        concat_bound: Bound on the weights of the concatenation, in (0, 1].
        map_size: `(height, width)` of images; None for vectors.
        kernel_size: Of the dense layers on images.
        entrance: Features of a Lipschitz layer in front of the dense ones, pointwise and without an
            activation, that replaces what they read; None for no such layer.
        context_features: Features (channels) of the context, which shifts every pre-activation
            and so leaves the Lipschitz constant alone; None for no context.
        conditioner: Shifts what the dense layers write instead, or None.

    Source: Perugachi-Diaz, Tomczak, Bhulai 2021, §3; Ahn et al. 2022 (Monotone Flows), §4.
    """

    join = CONCATENATE

    def __init__(
        self,
        channels: int,
        *,
        growth: int = 16,
        depth: int = 3,
        activation: str | Activation = "cpila",
        coeff: float = 0.98,
        concat_bound: float = 0.98,
        map_size: tuple[int, int] | None = None,
        kernel_size: int = 3,
        entrance: int | None = None,
        context_features: int | None = None,
        conditioner: ResidualConditioner | None = None,
    ) -> None:
        sizes = {"channels": channels, "growth": growth, "depth": depth, "entrance": entrance}
        for name, size in sizes.items():
            if name != "entrance" or size is not None:
                require_integer(name, size, 1)
        if not 0 < concat_bound <= 1:
            raise ValueError(f"expected concat_bound in (0, 1], got {concat_bound}")
        super().__init__(
            channels,
            [growth] * depth,
            [*[kernel_size] * depth, 1],
            activation=activation,
            coeff=coeff,
            map_size=map_size,
            entrance=entrance,
            context_features=context_features,
        )
        if conditioner is not None:
            conditioner.require_fit(growth, depth, map_size)
            self.condition(conditioner)
        self.concat = nn.Parameter(torch.ones(depth, 2))
        self.concat_bound = concat_bound

    def bind_weights(self) -> BoundNet:
        """Normalise the weights and fold the concatenation into them."""
        return self.bind_group([self])[0]

    def binding_key(self) -> Hashable | None:
        """As that of every net, with the concatenation."""
        key = super().binding_key()
        return None if key is None else (key, _kind(self.concat), self.concat_bound)

    def _input_scales(self, nets: Sequence[LipschitzNet]) -> Sequence[Tensor]:
        logits = _stacked([cast(DenseNet, net).concat for net in nets])
        widths = [layer.weight.shape[1] for layer in self._layers()]
        return input_scales(widths, concatenation(logits, self.concat_bound))

    @torch.no_grad()
    def _stretch(self, i: int, gain: float) -> float:
        """√(η₁² + η₂²·gain²)."""
        keep, write = concatenation(in_float64(self.concat), self.concat_bound)[i].tolist()
        return sqrt(keep**2 + (write * gain) ** 2)


@final
class FeedForwardNet(LipschitzNet):
    """Lipschitz layers with activations between them.

    Args:
        channels: Features of a vector, or channels of an image.
        hidden: Width of every hidden layer; concatenating activations halve what a layer makes.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`, or an instance,
            of which every layer gets a copy.
        coeff: Bound on the spectral norm of every layer, in (0, 1).
        kernels: Kernel sizes, one more than hidden layers; None for vectors.
        map_size: `(height, width)` of images; None for vectors.
        preact: Put an activation in front of the first layer (Residual Flows, all blocks but the
            first).
        dropout: Share of the channels in front of the last layer that training leaves out, drawn
            when the net is bound and for all samples alike; tests scale them by what is left. Both
            keep the Lipschitz constant, which dropout as usual, divided by what is left, does not.
        zero_init: Divide the last layer's weight by 1000, so that the map starts near zero.
        bias: Whether layers have a bias.
        context_features: Features of the context that shifts every hidden layer, or None.

    Source: Chen et al. 2019 (Residual Flows), appendix E; Lu et al. 2021 (Implicit Normalizing
    Flows), appendix C.
    """

    join = REPLACE

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int],
        *,
        activation: str | Activation = "lipswish",
        coeff: float = 0.98,
        kernels: Sequence[int] | None = None,
        map_size: tuple[int, int] | None = None,
        preact: bool = False,
        dropout: float = 0.0,
        zero_init: bool = False,
        bias: bool = True,
        context_features: int | None = None,
    ) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {dropout}")
        require_kind("hidden", hidden, Sequence, "a list of widths")
        for name, size in (("channels", channels), *(("every width", h) for h in hidden)):
            require_integer(name, size, 1)
        if not hidden:
            raise ValueError("expected a hidden layer, got none")
        if (kernels is None) != (map_size is None):
            raise ValueError("expected kernels and map_size together, for images, or neither")
        if kernels is not None and len(kernels) != len(hidden) + 1:
            raise ValueError(f"expected {len(hidden) + 1} kernels, got {len(kernels)}")
        super().__init__(
            channels,
            hidden,
            kernels,
            activation=activation,
            coeff=coeff,
            map_size=map_size,
            context_features=context_features,
            preact=preact,
            zero_init=zero_init,
            bias=bias,
        )
        self.dropout = dropout

    def bind_weights(self) -> BoundNet:
        """Normalise the weights, and leave channels out."""
        *weights, last = (layer.effective()[0] for layer in self._layers())
        return self._bound((*weights, last * self._kept(last) if self.dropout else last))

    def binding_key(self) -> Hashable | None:
        """As that of every net; those that leave channels out stay alone."""
        return None if self.dropout else super().binding_key()

    def _kept(self, weight: Tensor) -> Tensor:
        """Factors of the columns of a weight."""
        factors = weight.new_full((weight.shape[1], *(1,) * (weight.ndim - 2)), 1 - self.dropout)
        return torch.bernoulli(factors) if self.training else factors


def _layer(
    reads: int,
    writes: int,
    kernel: int,
    map_size: tuple[int, int] | None,
    coeff: float,
    *,
    zero_init: bool = False,
    bias: bool = True,
) -> LipschitzLinear | LipschitzConv2d:
    """A layer on vectors, or on images of that size."""
    if map_size is None:
        return LipschitzLinear(reads, writes, coeff=coeff, zero_init=zero_init, bias=bias)
    return LipschitzConv2d(
        reads, writes, kernel, map_size, coeff=coeff, zero_init=zero_init, bias=bias
    )


def _bias(layer: LipschitzLayer) -> Tensor:
    """Of a layer; zeros where it has none."""
    weight = layer.weight
    return weight.new_zeros(len(weight)) if layer.bias is None else layer.bias


def _stacked(tensors: Sequence[Tensor]) -> Float[Tensor, " nets *shape"]:
    """One above another; a single one is not copied."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


def _is_plain(parameter: Tensor) -> bool:
    return type(parameter) in (nn.Parameter, Tensor)


def _kind(parameter: Tensor) -> Hashable:
    return parameter.shape, parameter.dtype, parameter.device, parameter.requires_grad
