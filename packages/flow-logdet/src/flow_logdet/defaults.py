"""The recommended estimator for a dimension."""

from flow_logdet.estimator import Estimator
from flow_logdet.exact import Exact
from flow_logdet.krylov import Krylov
from flow_logdet.probes import Diluted

EXACT_TRAINING = 16
EXACT_EVALUATION = 64
_EXACT = Exact()
_TRAINING = Krylov(steps=8, tolerance=1e-3)
_EVALUATION = Krylov(steps=64, probe=Diluted(), probes=4, tolerance=1e-3, control_variate=False)


def default_estimator(dim: int, training: bool) -> Estimator:
    """`Exact` in small dimension, `Krylov` above.

    Training: exact up to 16 dimensions; above, one Rademacher probe with the first-order control
    variate, and steps until the adjoint solve is good to 1e-3 (3 to 8 of them). Evaluation: exact
    up to 64 dimensions; above, four diluted probes with a standard error (the control variate adds
    nothing to dilution), and steps until the solves behind the value are good to 1e-3: five or six
    of trained blocks, as many as 64 where J is hard. What is missed then is told as `LogDet.bias`.

    Args:
        dim: Dimension of a sample.
        training: Whether gradients are wanted often and cheap rather than values precise.
    """
    if dim <= (EXACT_TRAINING if training else EXACT_EVALUATION):
        return _EXACT
    return _TRAINING if training else _EVALUATION
