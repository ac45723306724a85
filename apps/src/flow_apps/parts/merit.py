"""Means that say how far they can be trusted."""

from jaxtyping import Real
from torch import Tensor


def mean_of(name: str, values: Real[Tensor, " count"], of: str = "") -> dict[str, float]:
    """The mean over samples by its name, and its standard error where there are several of them.

    Args:
        name: Of the figure.
        values: Of every sample.
        of: In front of `standard_error`, where there is more than one.
    """
    values = values.double()
    found = {name: float(values.mean())}
    if len(values) > 1:
        found[f"{of}standard_error"] = float(values.std()) / len(values) ** 0.5
    return found
