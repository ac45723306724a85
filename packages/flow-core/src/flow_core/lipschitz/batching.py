"""Work on all Lipschitz layers of a model at once, those of one shape together."""

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow_core.lipschitz.layer import Effective, LipschitzLayer, norms, refresh
from flow_core.lipschitz.staleness import notice_drift


def lipschitz_layers(model: nn.Module) -> list[LipschitzLayer]:
    """Every Lipschitz layer of a model, each once."""
    return [module for module in model.modules() if isinstance(module, LipschitzLayer)]


def update_lipschitz(model: nn.Module, iterations: int | None = None) -> None:
    """Let the singular pairs of every Lipschitz layer follow its weights.

    The only function that moves spectral state. Call it after the optimizer step, after loading
    and after swapping in averaged weights. `iterations` asks for that many products with each
    operator and its adjoint instead of what the layers' methods say; `ExactSVD` needs none.

    Raises:
        ValueError: `iterations` is below 1, or weights are not finite; the error names them.
    """
    groups: dict[Hashable, list[LipschitzLayer]] = {}
    for layer in lipschitz_layers(model):
        groups.setdefault(layer.batching_key(), []).append(layer)
    for group in groups.values():
        try:
            refresh(group, iterations)
        except ValueError as error:
            _refuse_nonfinite(model, error)
            raise


def _refuse_nonfinite(model: nn.Module, cause: ValueError) -> None:
    bad = [
        name or type(layer).__name__
        for name, layer in model.named_modules()
        if isinstance(layer, LipschitzLayer) and not bool(torch.isfinite(layer.weight).all())
    ]
    if bad:
        raise ValueError(
            f"update_lipschitz: the weights of {', '.join(bad)} are not finite; the step before "
            "diverged: go back to a checkpoint, lower the learning rate or clip gradients"
        ) from cause


def effective_weights(layers: Sequence[LipschitzLayer]) -> list[Effective]:
    """`layer.effective()` of each layer, in order, with one set of operations per weight shape."""
    groups: dict[Hashable, list[int]] = {}
    for index, layer in enumerate(layers):
        weight = layer.weight
        key = weight.shape, weight.dtype, weight.device, layer.coeff
        groups.setdefault(key, []).append(index)
    weights: dict[int, Tensor] = {}
    for group in groups.values():
        weights.update(zip(group, scaled([layers[index] for index in group]), strict=True))
    return [(weights[index], layer.bias) for index, layer in enumerate(layers)]


def scaled(layers: Sequence[LipschitzLayer]) -> tuple[Tensor, ...]:
    """The effective weights of layers of one shape and coefficient."""
    if len(layers) == 1:
        return (layers[0].effective()[0],)
    weights = torch.stack([layer.weight for layer in layers])
    sigma = norms(weights, torch.stack([layer.direction for layer in layers]))
    notice_forgotten_update(layers, sigma)
    scale = divisors(sigma, layers[0].coeff)
    return (weights / scale.view(-1, *[1] * (weights.ndim - 1))).unbind()


def divisors(sigma: Float[Tensor, " layers"], coeff: float) -> Float[Tensor, " layers"]:
    """max(1, sigma / coeff)."""
    return (sigma / coeff).clamp(min=1.0)


def notice_forgotten_update(
    layers: Sequence[LipschitzLayer], sigma: Float[Tensor, " layers"]
) -> None:
    """Warn in a pass of training where sigma of layers of one coefficient is not followed."""
    if layers[0].training and torch.is_grad_enabled():
        known = torch.stack([layer.known_norm for layer in layers])
        notice_drift(sigma.detach(), known, layers[0].coeff)
