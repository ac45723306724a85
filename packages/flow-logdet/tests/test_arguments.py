"""Arguments of a wrong kind are refused where they are given, with what to pass instead."""

from inspect import unwrap
from typing import Any

import pytest
from flow_logdet import (
    Diluted,
    Exact,
    Fixed,
    Gaussian,
    Geometric,
    Krylov,
    NeumannGradient,
    NeumannSurrogate,
    Poisson,
    PowerSeries,
    Rademacher,
    Recompute,
    Roulette,
)


@pytest.mark.parametrize(
    ("kind", "named", "said"),
    [
        (Krylov, {"probe": Rademacher}, r"got the class Rademacher; make one: Rademacher\("),
        (Krylov, {"probe": "signs"}, "probe to be a law of probes .*, got 'signs'"),
        (Krylov, {"steps": 2.5}, "steps to be an integer, got 2.5"),
        (Krylov, {"tolerance": None}, "tolerance to be a number, got None"),
        (Krylov, {"control_variate": "no"}, "control_variate to be True or False, got 'no'"),
        (PowerSeries, {"terms": 3, "probe": Gaussian}, "got the class Gaussian"),
        (PowerSeries, {"terms": "3"}, "terms to be an integer, got '3'"),
        (Roulette, {"length": Geometric}, "law of lengths .*, got the class Geometric"),
        (Roulette, {"length": 0.5}, "law of lengths .*, got 0.5"),
        (Roulette, {"exact_terms": 1.5}, "exact_terms to be an integer, got 1.5"),
        (Roulette, {"per_sample": 1}, "per_sample to be True or False, got 1"),
        (NeumannSurrogate, {"probe": Gaussian}, "got the class Gaussian"),
        (NeumannSurrogate, {"length": Poisson}, "got the class Poisson"),
        (NeumannGradient, {"series": PowerSeries}, "got the class PowerSeries; make one"),
        (Recompute, {"estimator": Krylov}, "got the class Krylov; make one"),
        (Exact, {"limit": 64.0}, "limit to be an integer, got 64.0"),
        (Geometric, {"p": "half"}, "p to be a number, got 'half'"),
        (Poisson, {"lam": "two"}, "lam to be a number, got 'two'"),
        (Diluted, {"stride": 1.5}, "stride to be an integer, got 1.5"),
        (Fixed, {"tensor": [1.0]}, "tensor to be a tensor .*, got list"),
    ],
)
def test_estimators(kind: type, named: dict[str, Any], said: str) -> None:
    make = unwrap(kind.__init__)  # type: ignore[misc]  # as it is without checks of types
    with pytest.raises(TypeError, match=f"expected .*{said}"):
        make(object.__new__(kind), **named)


def test_a_negative_number_of_exact_terms() -> None:
    with pytest.raises(ValueError, match="exact_terms to be at least 0, got -2"):
        NeumannSurrogate(exact_terms=-2)
