"""Log-determinants of I + J from products with J: exact, stochastic, Krylov.

An estimator is anything with the two methods of `Estimator`, a protocol. One with random probes and
the gradient of a surrogate inherits `StochasticEstimator`.
"""

from flow_logdet.defaults import default_estimator
from flow_logdet.determinant import log_abs_det
from flow_logdet.estimator import Estimator, LogDet, log_det_difference
from flow_logdet.exact import Exact
from flow_logdet.first_order import FirstOrder, HasFirstOrder
from flow_logdet.kinds import Kind
from flow_logdet.krylov import Krylov
from flow_logdet.lengths import Geometric, Length, Poisson
from flow_logdet.neumann import NeumannGradient
from flow_logdet.probes import Diluted, Fixed, Gaussian, Probe, Rademacher
from flow_logdet.published import PUBLISHED, NeumannSurrogate, published_estimator
from flow_logdet.recompute import Recompute
from flow_logdet.roulette import Roulette
from flow_logdet.series import PowerSeries
from flow_logdet.stochastic import StochasticEstimator

__all__ = [
    "PUBLISHED",
    "Diluted",
    "Estimator",
    "Exact",
    "FirstOrder",
    "Fixed",
    "Gaussian",
    "Geometric",
    "HasFirstOrder",
    "Kind",
    "Krylov",
    "Length",
    "LogDet",
    "NeumannGradient",
    "NeumannSurrogate",
    "Poisson",
    "PowerSeries",
    "Probe",
    "Rademacher",
    "Recompute",
    "Roulette",
    "StochasticEstimator",
    "default_estimator",
    "log_abs_det",
    "log_det_difference",
    "published_estimator",
]
