"""The flows that `race.py` trains: presets of this project and flows of other libraries."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.experiments.toy2d.model import build_flow
from flow_apps.registry import find_preset
from flow_core import Flow, Settings, initialize, update_lipschitz
from torch import Tensor, nn


@dataclass(frozen=True)
class Rival:
    """A flow in training.

    Attributes:
        model: Its parameters.
        log_prob: Log-densities in nats, in training.
        test_log_prob: The same in a test.
        follow: What has to be done after a step.
    """

    model: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    test_log_prob: Callable[[Tensor], Tensor]
    follow: Callable[[], None]


def ours(kind: str, compiled: bool) -> Callable[[str, Tensor], Rival]:
    """The flow of a preset of toy2d."""

    def make(density: str, points: Tensor) -> Rival:
        config = find_preset(f"{density}-{kind}")[1].config
        if not isinstance(config, Toy2dConfig):
            raise TypeError(f"expected a preset of toy2d, got {config}")
        flow: Flow = build_flow(config)
        initialize(flow, points)
        using = Settings(compiled=frozenset({len(points)}) if compiled else frozenset())
        normalised = config.net != "sandwich"
        return Rival(
            flow,
            lambda x: flow(x, using=using),
            flow.log_prob,
            (lambda: update_lipschitz(flow)) if normalised else lambda: None,
        )

    return make


def spline(density: str, points: Tensor) -> Rival:
    """The neural spline flow of zuko: 22,026 parameters."""
    import zuko  # noqa: PLC0415

    del density, points
    return of_zuko(zuko.flows.NSF(2, transforms=3, hidden_features=(64, 64)))


def autoregressive(density: str, points: Tensor) -> Rival:
    """The masked autoregressive flow of zuko: 23,060 parameters."""
    import zuko  # noqa: PLC0415

    del density, points
    return of_zuko(zuko.flows.MAF(2, transforms=5, hidden_features=(64, 64)))


def residual_of_normflows(density: str, points: Tensor) -> Rival:
    """The residual flow of normflows, as its examples make it."""
    del density
    # Not among the dependencies of the benchmarks: pip install normflows.
    normflows: Any = importlib.import_module("normflows")
    layers: list[nn.Module] = []
    for _ in range(16):
        net = normflows.nets.LipschitzMLP([2, 64, 64, 2], init_zeros=True, lipschitz_const=0.9)
        layers += [normflows.flows.Residual(net, reduce_memory=True), normflows.flows.ActNorm(2)]
    flow = normflows.NormalizingFlow(
        normflows.distributions.DiagGaussian(2, trainable=False), layers
    )
    with torch.no_grad():
        flow.log_prob(points)  # sets the ActNorms

    def follow() -> None:
        normflows.utils.update_lipschitz(flow, 5)

    return Rival(flow, flow.log_prob, flow.log_prob, follow)


def of_zuko(flow: nn.Module) -> Rival:
    """Its log-densities, in training and in tests alike."""

    def log_prob(x: Tensor) -> Tensor:
        value: Tensor = flow().log_prob(x)
        return value

    return Rival(flow, log_prob, log_prob, lambda: None)


RIVALS: dict[str, Callable[[str, Tensor], Rival]] = {
    "sandwich": ours("sandwich", compiled=True),
    "sandwich, eager": ours("sandwich", compiled=False),
    "monotone": ours("monotone", compiled=True),
    "idensenet": ours("idensenet", compiled=True),
    "zuko NSF": spline,
    "zuko MAF": autoregressive,
    "normflows Residual": residual_of_normflows,
}
NEEDS = {"zuko NSF": "zuko", "zuko MAF": "zuko", "normflows Residual": "normflows"}


def is_installed(name: str) -> bool:
    """Whether the library of a rival is there."""
    return name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None
