import math

import pytest
from flow_logdet import Kind


def minus_twice_atanh(z: float) -> float:
    return math.log1p(-z) - math.log1p(z)


FUNCTIONS = {
    Kind.RESIDUAL: math.log1p,
    Kind.MONOTONE: minus_twice_atanh,
}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("z", [-0.6, 0.3, 0.6])
def test_coefficients_are_those_of_the_taylor_series(kind: Kind, z: float) -> None:
    series = sum(kind.coefficient(k) * z**k for k in range(1, 90))
    assert series == pytest.approx(FUNCTIONS[kind](z), rel=1e-12)
    assert kind.slope == kind.coefficient(1)


@pytest.mark.parametrize("kind", Kind)
def test_tail_bounds_what_a_truncated_series_misses(kind: Kind) -> None:
    for power in (1, 2, 5, 8):
        for lipschitz in (0.1, 0.5, 0.95):
            missed = sum(abs(kind.coefficient(k)) * lipschitz**k for k in range(power + 1, 2000))
            assert missed <= kind.tail(power, lipschitz) <= missed / (1 - lipschitz) + 1e-12


def test_even_powers_are_skipped_where_they_vanish() -> None:
    assert [Kind.MONOTONE.last_power(k) for k in (1, 2, 3, 4)] == [1, 1, 3, 3]
    assert [Kind.RESIDUAL.last_power(k) for k in (1, 2, 3, 4)] == [1, 2, 3, 4]


@pytest.mark.parametrize("lipschitz", [1.0, 1.2, -0.1, math.nan])
def test_tail_needs_a_contraction(lipschitz: float) -> None:
    with pytest.raises(ValueError, match="expected a Lipschitz bound in"):
        Kind.RESIDUAL.tail(3, lipschitz)
