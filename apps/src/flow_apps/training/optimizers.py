"""Optimizers of torch, made from configs, each with its part of the parameters."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from flow_apps.config import OptimizerConfig, suggestion
from flow_apps.errors import ConfigError

_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
}
# What a config says in fields of its own, and what only the engine knows.
_OWN = {"params", "lr", "weight_decay"}


@dataclass(frozen=True)
class AssignedOptimizer:
    """An optimizer, what it was made from and what it changes."""

    config: OptimizerConfig
    optimizer: torch.optim.Optimizer
    parameters: list[nn.Parameter]

    def set_learning_rate(self, step: int, iterations: int, factor: float) -> float:
        """Give it the learning rate of a step times a factor, and return it."""
        rate = factor * self.config.learning_rate_at(step, iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate


def make_optimizers(
    module: nn.Module, configs: Sequence[OptimizerConfig]
) -> list[AssignedOptimizer]:
    """One optimizer for each config, in their order.

    Raises:
        ConfigError: If a pattern names no parameter, two optimizers name the same one, one has none
            left, or an option is unknown or of no use.
    """
    owners = _owners(module, configs)
    named = dict(module.named_parameters())
    made: list[AssignedOptimizer] = []
    for number, config in enumerate(configs):
        parameters = [named[name] for name, owner in owners.items() if owner == number]
        if not parameters:
            raise ConfigError(f"optimizer {number}: no parameter is left for it")
        made.append(AssignedOptimizer(config, _made(config, parameters), parameters))
    return made


def require_optimizers(module: nn.Module, configs: Sequence[OptimizerConfig]) -> None:
    """Refuse configs that no optimizers can be made from.

    Raises:
        ConfigError: As `make_optimizers`.
    """
    make_optimizers(module, configs)


def _owners(module: nn.Module, configs: Sequence[OptimizerConfig]) -> dict[str, int]:
    """Which optimizer every parameter belongs to; the first has what the others leave."""
    owners = {name: 0 for name, _ in module.named_parameters()}
    for number, config in enumerate(configs):
        for pattern in config.parameters:
            found = [name for name in owners if fnmatchcase(name, pattern)]
            if not found:
                example = next(iter(owners), "none")
                raise ConfigError(
                    f"parameters: no parameter is named {pattern!r}; the first is {example}"
                )
            for name in found:
                if owners[name] not in (0, number):
                    raise ConfigError(f"parameters: {name} would belong to two optimizers")
                owners[name] = number
    return owners


def _made(config: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    kind = _CLASSES[config.name]
    known = inspect.signature(kind).parameters
    for option in config.options:
        if option not in known or option in _OWN:
            allowed = sorted(set(known) - _OWN)
            hint = suggestion(option, allowed) or f"; known: {', '.join(allowed)}"
            raise ConfigError(f"options: {config.name} has no option {option!r}{hint}")
    if config.weight_decay and "weight_decay" not in known:
        raise ConfigError(f"weight_decay: expected 0, {config.name} has none")
    arguments: dict[str, Any] = {"lr": config.learning_rate, **config.options}
    if "weight_decay" in known:
        arguments["weight_decay"] = config.weight_decay
    # Small models spend their time in the launches of single operations.
    if "fused" in known and not {"fused", "foreach"} & config.options.keys():
        arguments["fused"] = True
    try:
        return kind(parameters, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"options: {config.name} refuses {dict(config.options)}: {error}"
        ) from None
