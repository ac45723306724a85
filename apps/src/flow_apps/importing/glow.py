"""The layout of y0ast/Glow-PyTorch: a plain state, and options in hparams.json beside it.

Glow as released by Kingma & Dhariwal 2018; facts of the layout are those of the published program.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from flow_core import Flow
from flow_core.base import StandardNormal
from flow_core.bijection import Bijection
from flow_core.combinators import Chain, Multiscale
from flow_core.layers import (
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    Conv1x1,
    FreeMatrix,
    LUMatrix,
    Normalize,
    Permutation,
    SigmoidScale,
    SplitPrior,
    Squeeze,
    ZeroConv2d,
    convolutional_conditioner,
)
from torch import Tensor, nn

from flow_apps.errors import CheckpointError
from flow_apps.importing.reading import Published
from flow_apps.importing.tensors import Taken, put

ImportedPermutation: TypeAlias = Literal["lu", "free", "reverse"]


@dataclass(frozen=True, kw_only=True)
class GlowLayout:
    """Sizes and kinds of a published Glow.

    Attributes:
        image_shape: Channels, height and width.
        levels: Each a squeeze and steps; half of the channels leave between them.
        steps: Of a level: ActNorm, permutation, coupling.
        width: Channels inside of couplings.
        permutation: lu and free: a 1x1 convolution; reverse: channels in the opposite order.
        additive: Whether couplings have no scale.
        top: Whether the last prior has a learned mean and scale.
    """

    image_shape: tuple[int, int, int]
    levels: int
    steps: int
    width: int
    permutation: ImportedPermutation = "lu"
    additive: bool = False
    top: bool = True


def build_glow(layout: GlowLayout) -> Flow:
    """The flow of a layout, for images in [0, 1]; the published one begins with x − ½."""
    channels, height, width = layout.image_shape
    scales: list[Bijection] = []
    shapes: list[tuple[int, int, int]] = []
    for level in range(layout.levels):
        channels, height, width = 4 * channels, height // 2, width // 2
        shapes.append((channels, height, width))
        layers: list[Bijection] = [Squeeze(), *_steps(layout, channels)]
        if level < layout.levels - 1:
            layers.append(_swapped(channels))
            channels //= 2
        elif layout.top:
            layers.append(Affine(shapes[-1]))
        scales.append(Chain(layers))
    priors = [_prior(shape[0] // 2) for shape in shapes[:-1]]
    centred = Normalize((0.5,) * layout.image_shape[0], (1.0,) * layout.image_shape[0])
    size = torch.Size(layout.image_shape).numel()
    bijection = Chain([centred, Multiscale(scales, shapes, priors)])
    return Flow(StandardNormal((size,)), bijection, layout.image_shape)


def _steps(layout: GlowLayout, channels: int) -> Iterator[Bijection]:
    for _ in range(layout.steps):
        yield ActNorm(channels)
        yield _permutation(layout, channels)
        yield _coupling(layout, channels)


def _permutation(layout: GlowLayout, channels: int) -> Bijection:
    if layout.permutation == "reverse":
        return Permutation.reversal(channels)
    matrix = (LUMatrix if layout.permutation == "lu" else FreeMatrix)(channels)
    return Conv1x1(matrix)


def _coupling(layout: GlowLayout, channels: int) -> Bijection:
    if not layout.additive:
        return AffineCoupling.convolutional(channels, layout.width, SigmoidScale())
    half = channels // 2
    return AdditiveCoupling(convolutional_conditioner(half, half, layout.width))


def _swapped(channels: int) -> Permutation:
    """The halves in the opposite order: the published split lets the second one leave."""
    half = channels // 2
    return Permutation([*range(half, channels), *range(half)])


def _prior(half: int) -> SplitPrior:
    return SplitPrior(ZeroConv2d(half, 2 * half), log_scale_bound=None)


def glow_layout(published: Published) -> GlowLayout:
    """Sizes and kinds, as the tensors tell them.

    Raises:
        CheckpointError: The tensors are those of no Glow, or of one with labels or permutations
            that the file does not hold, or hparams.json contradicts them.
    """
    state = Taken(published.path, published.tensors)
    if state.has("project_ycond.linear.weight"):
        raise state.refused("a Glow without labels", "one with y_condition")
    levels = _levels(state)
    if len(set(levels)) != 1:
        raise state.refused("levels of equally many steps", str(levels))
    width, half = state.shape("flow.layers.1.block.0.conv.weight")[:2]
    _, _, height, breadth = state.shape("prior_h")
    last = state.shape("flow.layers.1.block.4.conv.weight")[0]
    scale = 2 ** len(levels)
    layout = GlowLayout(
        image_shape=(half // 2, height * scale, breadth * scale),
        levels=len(levels),
        steps=levels[0],
        width=width,
        permutation=_permutation_kind(state, published.options),
        additive=last == half,
        top=state.has("learn_top_fn.conv.weight"),
    )
    _require_options(state, layout, published.options)
    return layout


def _levels(state: Taken) -> list[int]:
    """Steps of every level: a squeeze has no tensors, a split a convolution of its own."""
    levels, index = [0], 1
    while True:
        if state.has(f"flow.layers.{index}.actnorm.bias"):
            levels[-1] += 1
        elif state.has(f"flow.layers.{index}.conv.weight"):
            levels.append(0)
            index += 1
        else:
            return levels
        index += 1


def _permutation_kind(state: Taken, options: Mapping[str, object]) -> ImportedPermutation:
    if state.has("flow.layers.1.invconv.log_s"):
        return "lu"
    if state.has("flow.layers.1.invconv.weight"):
        return "free"
    if options.get("flow_permutation") == "reverse":
        return "reverse"
    kind = str(options.get("flow_permutation", "one that hparams.json beside the file would name"))
    raise state.refused("a permutation that the file holds (invconv, or reverse)", kind)


def _require_options(state: Taken, layout: GlowLayout, options: Mapping[str, object]) -> None:
    found = {
        "K": layout.steps,
        "L": layout.levels,
        "hidden_channels": layout.width,
        "learn_top": layout.top,
        "flow_coupling": "additive" if layout.additive else "affine",
        "y_condition": False,
    }
    for name, value in found.items():
        if options.get(name, value) != value:
            raise state.refused(f"{name} {options[name]}, as hparams.json says", str(value))


def fill_glow(flow: Flow, layout: GlowLayout, published: Published) -> None:
    """Put the published tensors into the flow of their layout.

    Raises:
        CheckpointError: A tensor is missing, of another shape, or left over.
    """
    state = Taken(published.path, published.tensors)
    multiscale = cast(Multiscale, cast(Chain, flow.bijection).layers[1])
    index, channels = 1, 4 * layout.image_shape[0]
    for level in range(layout.levels):
        layers = list(cast(Chain, multiscale.scales[level]).layers)
        for step in range(layout.steps):
            prefix = f"flow.layers.{index}"
            actnorm, permutation, coupling = layers[1 + 3 * step : 4 + 3 * step]
            _fill_actnorm(cast(ActNorm, actnorm), state, f"{prefix}.actnorm")
            _fill_permutation(permutation, state, f"{prefix}.invconv")
            conditioner = cast(nn.Sequential, cast(AffineCoupling, coupling).conditioner)
            _fill_block(conditioner, state, f"{prefix}.block", interleaved=not layout.additive)
            index += 1
        if level < layout.levels - 1:
            prior = cast(SplitPrior, multiscale.priors[str(level)])
            _fill_last(cast(ZeroConv2d, prior.conditioner), state, f"flow.layers.{index}")
            channels, index = 2 * channels, index + 2
    mean, log_scale = _top(state, layout, channels)
    if layout.top:
        affine = cast(Affine, list(cast(Chain, multiscale.scales[-1]).layers)[-1])
        put(affine.log_scale, -log_scale)
        put(affine.shift, -mean * (-log_scale).exp())
    state.require_empty()


def _fill_actnorm(layer: ActNorm, state: Taken, prefix: str) -> None:
    channels = len(layer.bias)
    put(layer.bias, state.take(f"{prefix}.bias", 1, channels, 1, 1))
    put(layer.log_scale, state.take(f"{prefix}.logs", 1, channels, 1, 1))
    layer.initialized.fill_(True)
    layer.refresh_initialized()


def _fill_permutation(layer: nn.Module, state: Taken, prefix: str) -> None:
    if not isinstance(layer, Conv1x1):
        return
    matrix, n = layer.matrix, layer.matrix.size
    if isinstance(matrix, LUMatrix):
        put(matrix.lower, state.take(f"{prefix}.lower", n, n))
        put(matrix.upper, state.take(f"{prefix}.upper", n, n))
        put(matrix.log_diagonal, state.take(f"{prefix}.log_s", n))
        put(matrix.signs, state.take(f"{prefix}.sign_s", n))
        put(matrix.permutation, state.take(f"{prefix}.p", n, n).argmax(0))
    else:
        put(cast(FreeMatrix, matrix).weight, state.take(f"{prefix}.weight", n, n))


def _fill_block(net: nn.Sequential, state: Taken, prefix: str, *, interleaved: bool) -> None:
    """A conditioner; an ActNorm behind a convolution without a bias is one with a bias."""
    for i in (0, 2):
        conv = cast(nn.Conv2d, net[i])
        width = len(conv.weight)
        scale = state.take(f"{prefix}.{i}.actnorm.logs", 1, width, 1, 1).exp().view(-1)
        bias = state.take(f"{prefix}.{i}.actnorm.bias", 1, width, 1, 1).view(-1)
        weight = state.take(f"{prefix}.{i}.conv.weight", *conv.weight.shape)
        put(conv.weight, weight * scale.view(-1, 1, 1, 1))
        put(cast(nn.Parameter, conv.bias), bias * scale)
    _fill_last(cast(ZeroConv2d, net[4]), state, f"{prefix}.4", interleaved=interleaved)


def _fill_last(conv: ZeroConv2d, state: Taken, prefix: str, *, interleaved: bool = True) -> None:
    """A convolution that gives two things, in even and odd channels; here one behind the other."""
    outputs = len(conv.weight)
    order = torch.arange(outputs)
    if interleaved:
        order = torch.cat([order[0::2], order[1::2]])
    put(conv.weight, state.take(f"{prefix}.conv.weight", *conv.weight.shape)[order])
    put(conv.bias, state.take(f"{prefix}.conv.bias", outputs)[order])
    put(conv.log_scale, state.take(f"{prefix}.logs", outputs, 1, 1)[order])


def _top(state: Taken, layout: GlowLayout, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and log-scale of the last prior: what a convolution makes of `prior_h`, or that."""
    _, height, width = layout.image_shape
    size = (height >> layout.levels, width >> layout.levels)
    h = state.take("prior_h", 1, 2 * channels, *size)
    if layout.top:
        weight = state.take("learn_top_fn.conv.weight", 2 * channels, 2 * channels, 3, 3)
        bias = state.take("learn_top_fn.conv.bias", 2 * channels)
        logs = state.take("learn_top_fn.logs", 2 * channels, 1, 1)
        h = torch.nn.functional.conv2d(h, weight, bias, padding=1) * (3 * logs).exp()
    elif not h.is_meta and bool(h.any()):
        raise CheckpointError(f"{state.path}: expected prior_h of zeros, got others")
    mean, log_scale = h[0].chunk(2)
    return mean, log_scale
