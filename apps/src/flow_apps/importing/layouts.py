"""Which published layout a file has, and the flow that it becomes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from flow_core import Flow
from torch import Tensor

from flow_apps.errors import CheckpointError, ConfigError
from flow_apps.importing.contractive import (
    ContractiveLayout,
    build_contractive,
    contractive_layout,
    fill_contractive,
)
from flow_apps.importing.glow import GlowLayout, build_glow, fill_glow, glow_layout
from flow_apps.importing.reading import Published

LayoutName: TypeAlias = Literal["glow", "residual-flow", "monotone", "idensenet"]


@dataclass(frozen=True)
class Layout:
    """A published layout.

    Attributes:
        sizes: The class of its sizes and kinds.
        read: Finds them in a file.
        build: Makes the flow for them.
        fill: Puts the tensors of a file into it, and returns what is worth telling.
    """

    sizes: type[Any]
    read: Callable[[Published], Any]
    build: Callable[[Any], Flow]
    fill: Callable[[Flow, Any, Published], list[str]]


def _fill_glow(flow: Flow, layout: GlowLayout, published: Published) -> list[str]:
    fill_glow(flow, layout, published)
    return []


_CONTRACTIVE = Layout(ContractiveLayout, contractive_layout, build_contractive, fill_contractive)
LAYOUTS: dict[LayoutName, Layout] = {
    "glow": Layout(GlowLayout, glow_layout, build_glow, _fill_glow),
    "residual-flow": _CONTRACTIVE,
    "monotone": _CONTRACTIVE,
    "idensenet": _CONTRACTIVE,
}


def find_layout(published: Published, wanted: str | None) -> LayoutName:
    """The layout of a file: the wanted one, or the one that its names tell.

    Raises:
        ConfigError: There is no layout of the wanted name.
        CheckpointError: No layout is known that has such names.
    """
    if wanted is not None:
        if wanted not in LAYOUTS:
            raise ConfigError(f"layout: expected one of {', '.join(LAYOUTS)}, got {wanted!r}")
        return wanted
    if any(name.startswith("flow.layers.") for name in published.tensors):
        return "glow"
    if any(name.endswith(".u") and "chain" in name for name in published.tensors):
        return _of_blocks(published)
    raise CheckpointError(
        f"{published.path}: expected names of a known layout ({', '.join(get_args(LayoutName))}), "
        f"got {', '.join(sorted(published.tensors)[:3])}; only these layouts can be imported"
    )


def _of_blocks(published: Published) -> LayoutName:
    """Names tell concatenations; of blocks only the options tell which kind they are."""
    if not any(name.endswith(".K1_unnormalized") for name in published.tensors):
        return "residual-flow" if not published.options.get("monotone_resolvent") else "monotone"
    if not published.options:
        raise CheckpointError(
            f"{published.path}: expected the options of the program in the file, got none; its "
            "blocks can be monotone or residual: tell --layout monotone or --layout idensenet"
        )
    return "monotone" if published.options.get("monotone_resolvent") else "idensenet"


def with_layout(published: Published, name: LayoutName) -> Published:
    """With the kind of its blocks, which only options tell, as the layout has it."""
    if name == "glow":
        return published
    monotone = {"monotone_resolvent": name == "monotone"}
    return replace(published, options={**published.options, **monotone})


def with_hparams(published: Published) -> Published:
    """With the options in hparams.json beside the file, if there is one.

    Raises:
        CheckpointError: It is no JSON object.
    """
    beside = published.path.with_name("hparams.json")
    if published.options or not beside.exists():
        return published
    return replace(published, options=read_object(beside))


def read_object(path: Path) -> dict[str, object]:
    """A JSON object from a file.

    Raises:
        CheckpointError: It cannot be read, or is something else.
    """
    try:
        found: object = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a JSON object, got {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got a {type(found).__name__}")
    return cast(dict[str, object], found)


def made(layout: Layout, sizes: object, like: Tensor) -> Flow:
    """The flow for sizes, of the precision of a tensor, with nothing drawn from outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return layout.build(sizes).to(like.dtype).eval()
