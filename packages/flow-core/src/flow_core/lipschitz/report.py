"""Certified Lipschitz bounds of the maps of a model, and their repair."""

import math

from torch import nn

from flow_core.lipschitz.batching import lipschitz_layers
from flow_core.lipschitz.certified import Certified, UncertifiedNet
from flow_core.lipschitz.layer import LipschitzLayer

ROUNDING = 1e-6  # weights are stored in float32
ROUNDS = 5


def certified_maps(model: nn.Module) -> dict[str, Certified]:
    """The outermost `Certified` modules of a model, by name; a shared one is listed once.

    A layer inside a certified map is part of it and not listed, nor is one of an `UncertifiedNet`.
    """
    found: dict[str, Certified] = {}
    seen: set[int] = set()
    pending: list[tuple[str, nn.Module]] = [("", model)]
    while pending:
        name, module = pending.pop()
        if id(module) in seen or isinstance(module, UncertifiedNet):
            continue
        seen.add(id(module))
        if isinstance(module, Certified):
            found[name] = module
            continue
        children = [(f"{name}.{key}" if name else key, c) for key, c in module.named_children()]
        pending.extend(reversed(children))
    return found


def lipschitz_certificate(model: nn.Module) -> dict[str, float]:
    """Proven upper bound of the Lipschitz constant of each map of a model, by module name.

    A block is invertible where the bound of its map is below 1.

    Raises:
        ValueError: Weights are not finite.
    """
    return {name: module.certificate() for name, module in certified_maps(model).items()}


def repair_lipschitz(model: nn.Module, target: float = 0.999) -> list[str]:
    """Scale down the weights of maps whose certified bound is not below 1; name those maps.

    First each layer of such a map is divided by what its certified norm exceeds its coefficient
    (the estimate of training was low); where the bound is still not below 1, all its layers
    are scaled by target / bound. Maps that are fine are not touched.

    Args:
        model: The model whose raw weights may be changed.
        target: The bound to scale to, below 1.

    Returns:
        The names of the maps that were changed; say so to the user.

    Raises:
        ValueError: `target` is not in (0, 1), a bound is no number, or a map stays at 1 or above.
    """
    if not 0.0 < target < 1.0:
        raise ValueError(f"repair_lipschitz: expected 0 < target < 1, got {target}")
    repaired: list[str] = []
    for name, module in certified_maps(model).items():
        bound = module.certificate()
        if math.isnan(bound):
            raise ValueError(f"repair_lipschitz: the bound of '{name}' is no number; it diverged")
        if bound >= 1.0:
            repair_map(name, module, target)
            repaired.append(name)
    return repaired


def repair_map(name: str, module: Certified, target: float) -> None:
    """Scale one map.

    Raises:
        ValueError: Its bound stays at 1 or above.
    """
    layers = lipschitz_layers(module)
    for layer in layers:
        enforce_coefficient(layer)
    for _ in range(ROUNDS):
        bound = module.certificate()
        if bound < 1.0:
            return
        for layer in layers:
            layer.absorb(target / bound)
    if module.certificate() >= 1.0:
        raise ValueError(
            f"repair_lipschitz: scaling the {len(layers)} Lipschitz layers of '{name}' does not "
            "bring its certified bound below 1; check its other factors"
        )


def enforce_coefficient(layer: LipschitzLayer) -> None:
    """Scale a layer whose certified norm exceeds its coefficient."""
    norm = layer.certificate()
    if norm > layer.coeff:
        layer.absorb(layer.coeff / norm * (1 - ROUNDING))
