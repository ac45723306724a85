"""The layouts of Residual Flows, i-DenseNets and Monotone Flows: blocks, and ActNorms between.

All three share their containers, their Lipschitz layers with stored singular vectors, and their
options. Programs: rtqichen/residual-flows, yperugachidiaz/invertible_densenets,
mlvlab/MonotoneFlows.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

import torch
from flow_core import Flow
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.blocks import Monotone, Residual
from flow_core.combinators import Chain
from flow_core.layers import ActNorm
from flow_core.lipschitz import LipschitzLayer
from flow_core.maps import DenseNet, FeedForwardNet
from flow_core.models import ContractiveConfig, image_flow
from torch import Tensor, nn

from flow_apps.errors import CheckpointError
from flow_apps.importing.norms import effective_norm, effective_weight, with_settled_vectors
from flow_apps.importing.reading import Published
from flow_apps.importing.tensors import Taken, put

ImportedBlock: TypeAlias = Literal["residual", "monotone"]
# Norms are estimated from below: a later estimate may be larger by so much.
_MARGIN = 1 + 1e-4
_ACTIVATIONS = {
    "swish": "lipswish",
    "CPila": "cpila",
    "CLipSwish": "clipswish",
    "LeakyLSwish": "leakylswish",
    "CReLU": "crelu",
    "ALCLipSiLU": "alclipsilu",
    "pila": "pila",
    "relu": "relu",
    "elu": "elu",
    "softplus": "softplus",
}
_BOOKKEEPING = (
    "initialized",
    "spatial_dims",
    "scale",
    "geom_p",
    "lamb",
    "last_n_samples",
    "last_firmom",
    "last_secmom",
)


@dataclass(frozen=True, kw_only=True)
class ContractiveLayout:
    """Sizes and kinds of a published flow of contractive blocks.

    Attributes:
        block: Kind of the blocks.
        image_shape: Channels, height and width; empty for vectors.
        features: Of vectors.
        scales: Blocks of every scale; of vectors all of them.
        dense: Whether layers concatenate.
        depth: Hidden layers.
        growth: What they add, or their width.
        kernels: Of layers that do not concatenate.
        dense_blocks: Blocks on the flattened image.
        dense_growth: What their hidden layers add, or their width.
        dense_entrance: Features of their first layer, where they concatenate.
        activation: Between layers.
        preact: Whether nets on vectors begin with one.
        actnorm: Whether there are ActNorms.
        coeff: Bound on the norms of layers, raised where stored vectors let them be larger.
        concat_bound: Bound on the weights of a concatenation.
        alpha: Of the logit.
        squeeze_first: Whether a squeeze came before the published model.
    """

    block: ImportedBlock
    image_shape: tuple[int, ...] = ()
    features: int = 2
    scales: tuple[int, ...] = (1,)
    dense: bool = False
    depth: int = 2
    growth: int = 16
    kernels: tuple[int, ...] = ()
    dense_blocks: int = 0
    dense_growth: int = 1
    dense_entrance: int | None = None
    activation: str = "lipswish"
    preact: bool = True
    actnorm: bool = True
    coeff: float = 0.98
    concat_bound: float = 0.98
    alpha: float = 0.05
    squeeze_first: bool = False


def build_contractive(layout: ContractiveLayout) -> Flow:
    """The flow of a layout."""
    if not layout.image_shape:
        return _flow_of_vectors(layout)
    config = ContractiveConfig(
        block=layout.block,
        scales=layout.scales,
        net="dense" if layout.dense else "feedforward",
        growth=layout.growth,
        width=layout.growth,
        kernels=layout.kernels or (3, 1, 3),
        depth=layout.depth,
        activation=layout.activation,
        actnorm=layout.actnorm,
        dense_blocks=layout.dense_blocks,
        dense_growth=layout.dense_growth,
        dense_width=layout.dense_growth,
        dense_entrance=layout.dense_entrance,
        alpha=layout.alpha,
        coeff=layout.coeff,
        concat_bound=layout.concat_bound,
        squeeze_first=layout.squeeze_first,
    )
    channels, height, width = layout.image_shape
    return image_flow(config, (channels, height, width))


def _flow_of_vectors(layout: ContractiveLayout) -> Flow:
    size, kind = layout.features, Monotone if layout.block == "monotone" else Residual
    layers: list[Bijection] = [ActNorm(size)] if layout.actnorm else []
    for _ in range(sum(layout.scales)):
        layers.append(kind(_net_of_vectors(layout)))
        layers.extend([ActNorm(size)] if layout.actnorm else [])
    return Flow(StandardNormal((size,)), Chain(layers))


def _net_of_vectors(layout: ContractiveLayout) -> DenseNet | FeedForwardNet:
    if layout.dense:
        return DenseNet(
            layout.features,
            growth=layout.growth,
            depth=layout.depth,
            activation=layout.activation,
            coeff=layout.coeff,
            concat_bound=layout.concat_bound,
        )
    return FeedForwardNet(
        layout.features,
        [layout.growth] * layout.depth,
        activation=layout.activation,
        coeff=layout.coeff,
        preact=layout.preact,
    )


@dataclass(frozen=True)
class Unit:
    """A published block or ActNorm.

    Attributes:
        prefix: Of its names.
        scale: The published scale that it is of.
        layers: Names of its Lipschitz layers in their order; none for an ActNorm.
        slopes: Names of the parameters of its activations, in their order.
        joins: Names of its concatenations, in their order.
    """

    prefix: str
    scale: int
    layers: tuple[str, ...] = ()
    slopes: tuple[str, ...] = ()
    joins: tuple[str, ...] = ()

    @property
    def flat(self) -> bool:
        """Whether it is a net on a flattened image."""
        return ".nnet.nnet." in self.layers[0] if self.layers else False


def units(names: Mapping[str, Tensor]) -> list[Unit]:
    """The blocks and ActNorms of a state in their order; what has no tensors is left out."""
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in names:
        parts = name.split(".")
        at = parts.index("chain") + 2 if "chain" in parts else len(parts)
        groups[tuple(int(p) for p in parts[:at] if p.isdigit())].append(name)
    return [_unit(key, groups[key]) for key in sorted(groups)]


def _unit(key: tuple[int, ...], names: list[str]) -> Unit:
    ordered = sorted(names, key=_numbers)
    first = ordered[0].split(".chain.")[0] + f".chain.{key[-1]}"
    prefix = first if ".chain." in ordered[0] else f"chain.{key[-1]}"
    scale = key[0] if len(key) > 1 else 0

    def ending(*ends: str) -> tuple[str, ...]:
        """What comes in front of such an end, without repeating."""
        return tuple(
            dict.fromkeys(name.rpartition(".")[0] for name in ordered if name.endswith(ends))
        )

    return Unit(prefix, scale, ending(".u"), ending(".beta"), ending(".K1_unnormalized"))


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split(".") if part.isdigit())


def contractive_layout(published: Published) -> ContractiveLayout:
    """Sizes and kinds, from the tensors and the options in the file.

    Raises:
        CheckpointError: The options are not there, or ask for what is not offered.
    """
    state, options = Taken(published.path, published.tensors), published.options
    found = units(published.tensors)
    blocks = [unit for unit in found if unit.layers]
    if not blocks:
        raise state.refused("blocks of Lipschitz layers", "none")
    for name in ("factor_out", "batchnorm", "quadratic", "learn_p", "fc", "var_deq", "padding"):
        if options.get(name):
            raise state.refused(f"a flow without {name}", f"{name}={options[name]}")
    image = state.shape(f"{blocks[0].layers[0]}.weight")
    if len(image) == 4:
        return _of_images(published, state, blocks, actnorm=len(found) > len(blocks))
    return _of_vectors(published, state, blocks, actnorm=len(found) > len(blocks))


def _of_vectors(
    published: Published, state: Taken, blocks: list[Unit], *, actnorm: bool
) -> ContractiveLayout:
    first, options = blocks[0], published.options
    activation, dense = _activation(state, options), bool(first.joins)
    return ContractiveLayout(
        block=_block(options),
        features=state.shape(f"{first.layers[-1]}.weight")[0],
        scales=(len(blocks),),
        dense=dense,
        depth=len(first.layers) - 1,
        growth=_written(state, first.layers[0], activation),
        activation=activation,
        actnorm=actnorm,
        coeff=_coeff(state, published, blocks),
        concat_bound=_number(state, options, "lip_coeff", 0.98) if dense else 0.98,
    )


def _of_images(
    published: Published, state: Taken, blocks: list[Unit], *, actnorm: bool
) -> ContractiveLayout:
    options, first = published.options, blocks[0]
    flat = [unit for unit in blocks if unit.flat]
    images = [unit for unit in blocks if not unit.flat]
    activation, dense = _activation(state, options), bool(first.joins)
    shape = state.shape(f"{first.layers[0]}.weight")
    height, width = published.tensors[f"{first.layers[0]}.spatial_dims"].long().tolist()
    squeezed = bool(options.get("squeeze_first"))
    channels = shape[1] // (4 if squeezed else 1)
    sizes = (2 * height, 2 * width) if squeezed else (height, width)
    inner = flat[0].layers[1 if dense else 0] if flat else None
    kernels = tuple(state.shape(f"{layer}.weight")[-1] for layer in first.layers)
    return ContractiveLayout(
        block=_block(options),
        image_shape=(channels, *sizes),
        scales=tuple(_counts(images)),
        dense=dense,
        depth=len(first.layers) - 1,
        growth=_written(state, first.layers[0], activation),
        kernels=() if dense else kernels,
        dense_blocks=len(flat),
        dense_growth=1 if inner is None else _written(state, inner, activation),
        dense_entrance=state.shape(f"{flat[0].layers[0]}.weight")[0] if flat and dense else None,
        activation=activation,
        actnorm=actnorm,
        coeff=_coeff(state, published, blocks),
        concat_bound=_number(state, options, "lip_coeff", 0.98) if dense else 0.98,
        alpha=1e-6 if options.get("data") == "mnist" else 0.05,
        squeeze_first=squeezed,
    )


def _counts(blocks: list[Unit]) -> Iterator[int]:
    for scale in sorted({unit.scale for unit in blocks}):
        yield sum(unit.scale == scale for unit in blocks)


def _block(options: Mapping[str, object]) -> ImportedBlock:
    return "monotone" if options.get("monotone_resolvent") else "residual"


def _activation(state: Taken, options: Mapping[str, object]) -> str:
    name = str(options.get("act", "swish"))
    if name not in _ACTIVATIONS:
        raise state.refused(f"one of the activations {', '.join(_ACTIVATIONS)}", name)
    return _ACTIVATIONS[name]


def _written(state: Taken, layer: str, activation: str) -> int:
    """Width behind the activation: concatenating ones double what a layer makes."""
    doubles = activation in {"cpila", "clipswish", "crelu", "alclipsilu"}
    return state.shape(f"{layer}.weight")[0] * (2 if doubles else 1)


def _number(state: Taken, options: Mapping[str, object], name: str, otherwise: float) -> float:
    value = options.get(name, otherwise)
    if not isinstance(value, int | float):
        raise state.refused(f"a number for {name}", str(value))
    return float(value)


def with_averages(published: Published) -> Published:
    """The moving averages in place of the parameters, with singular vectors that have settled.

    The published programs refine the vectors after they put averages in, too.

    Raises:
        CheckpointError: The file has no averages.
    """
    if not published.averages:
        raise CheckpointError(
            f"{published.path}: expected moving averages, got none; import its last weights"
        )
    tensors = {**published.tensors, **published.averages}
    for layer in [layer for unit in units(tensors) for layer in unit.layers]:
        tensors = with_settled_vectors(tensors, layer)
    return replace(published, tensors=tensors)


def _coeff(state: Taken, published: Published, blocks: list[Unit]) -> float:
    """The published bound, raised to the largest norm that stored vectors let through."""
    coeff = _number(state, published.options, "coeff", 0.98)
    largest = max(
        effective_norm(published.tensors, layer, coeff) for unit in blocks for layer in unit.layers
    )
    if largest <= coeff * _MARGIN:
        return coeff
    raised = largest * _MARGIN
    if raised >= 1:
        raise state.refused("layers with norms below 1", f"{largest:.6f} as the file has it")
    return raised


def fill_contractive(flow: Flow, layout: ContractiveLayout, published: Published) -> list[str]:
    """Put the published tensors into the flow; returns what is worth telling.

    Raises:
        CheckpointError: A tensor is missing, of another shape, or left over.
    """
    kept = {
        name: tensor
        for name, tensor in published.tensors.items()
        if name.rpartition(".")[2] not in _BOOKKEEPING
    }
    state, found = Taken(published.path, kept), units(published.tensors)
    targets = [
        layer
        for layer in cast(Chain, flow.bijection).layers
        if isinstance(layer, ActNorm | Residual | Monotone)
    ]
    if len(targets) != len(found):
        raise state.refused(f"{len(targets)} blocks and ActNorms", str(len(found)))
    nominal = _number(state, published.options, "coeff", 0.98)
    for target, unit in zip(targets, found, strict=True):
        if isinstance(target, ActNorm):
            _fill_actnorm(target, state, unit)
        else:
            net = cast(DenseNet | FeedForwardNet, target.g)
            _fill_net(net, state, unit, published.tensors, nominal)
    state.require_empty()
    if math.isclose(layout.coeff, nominal):
        return []
    return [f"coeff raised from {nominal} to {layout.coeff:.6f}: stored norms exceed it"]


def _fill_actnorm(layer: ActNorm, state: Taken, unit: Unit) -> None:
    inner = f"{unit.prefix}.fc_module"
    prefix = inner if state.has(f"{inner}.weight") else unit.prefix
    channels = len(layer.bias)
    put(layer.log_scale, state.take(f"{prefix}.weight", channels))
    put(layer.bias, state.take(f"{prefix}.bias", channels))
    layer.initialized.fill_(True)
    layer.refresh_initialized()


def _fill_net(
    net: DenseNet | FeedForwardNet,
    state: Taken,
    unit: Unit,
    tensors: Mapping[str, Tensor],
    coeff: float,
) -> None:
    layers = [*([] if net.entrance is None else [net.entrance]), *net.layers]
    if len(layers) != len(unit.layers):
        raise state.refused(f"{len(layers)} layers in {unit.prefix}", str(len(unit.layers)))
    for layer, name in zip(cast(list[LipschitzLayer], layers), unit.layers, strict=True):
        weight = effective_weight(tensors, name, coeff)
        state.take(f"{name}.weight", *layer.weight.shape)
        for vector in ("u", "v"):
            state.take(f"{name}.{vector}", *tensors[f"{name}.{vector}"].shape)
        put(layer.weight, weight)
        put(cast(nn.Parameter, layer.bias), state.take(f"{name}.bias", len(weight)))
        if not layer.weight.is_meta:
            layer.update_lipschitz()
    activations = [*([] if net.preact is None else [net.preact]), *net.activations]
    learned = [a for a in activations if hasattr(a, "beta")]
    if len(learned) != len(unit.slopes):
        raise state.refused(f"{len(learned)} slopes in {unit.prefix}", str(len(unit.slopes)))
    for activation, name in zip(learned, unit.slopes, strict=True):
        put(cast(Tensor, activation.beta), state.take(f"{name}.beta", 1))
        if hasattr(activation, "alpha"):
            put(cast(Tensor, activation.alpha), state.take(f"{name}.alpha", 1))
    if isinstance(net, DenseNet):
        for row, name in zip(net.concat, unit.joins, strict=True):
            both = [state.take(f"{name}.K{i}_unnormalized", 1) for i in (1, 2)]
            put(row, torch.cat(both))
