"""How log-determinants of fixed-point blocks are had, in training and in tests."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from flow_apps.config.checks import require
from flow_apps.config.neighbours import only_with

EstimatorName: TypeAlias = Literal[
    "default",
    "exact",
    "krylov",
    "one-probe",
    "brute-force",
    "residual-flow-training",
    "residual-flow-training-long",
    "residual-flow-evaluation",
    "residual-flow-geometric",
    "implicit-flow-tabular",
    "implicit-flow-training",
    "implicit-flow-evaluation",
]
# Those with random probes: the gradient of the others needs the graph.
_WITHOUT_GRAPH = tuple(
    name
    for name in get_args(EstimatorName)
    if name not in ("default", "exact", "one-probe", "brute-force")
)


@dataclass(frozen=True, kw_only=True)
class EstimatorConfig:
    """Estimators by name, those of the papers among them, see `flow_logdet.PUBLISHED`.

    Attributes:
        train: In training. default: exact up to 16 dimensions, above an unbiased estimate.
        test: In tests. default: exact up to 64 dimensions, above Krylov with diluted probes.
        validation: While training goes on. one-probe: exact up to 64 dimensions, above one probe
            with as many products as it needs; its noise is in the standard error over samples.
        recompute: Whether training keeps no graph of log-determinants and computes one pass again
            in the backward pass; for estimators with random probes.
    """

    train: EstimatorName = "default"
    test: EstimatorName = "default"
    validation: EstimatorName = "one-probe"
    recompute: bool = field(
        default=False, metadata=only_with(("train", _WITHOUT_GRAPH), otherwise=False)
    )

    def __post_init__(self) -> None:
        possible = not self.recompute or self.train in _WITHOUT_GRAPH
        expected = f"estimator.train={' or '.join(_WITHOUT_GRAPH)}"
        require(possible, f"recompute: expected {expected}, got {self.train}")
