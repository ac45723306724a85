import math

import pytest
import torch
from flow_logdet import Geometric, Length, Poisson

LAWS = [Geometric(0.5), Geometric(0.2), Poisson(2.0), Poisson(0.5)]


def mass(law: Length, n: int) -> float:
    """P(N = n) from the textbook formula."""
    if isinstance(law, Geometric):
        return 0.0 if n == 0 else law.p * (1 - law.p) ** (n - 1)
    assert isinstance(law, Poisson)
    return math.exp(-law.lam) * law.lam**n / math.factorial(n)


@pytest.mark.parametrize("law", LAWS)
def test_survival_sums_the_mass(law: Length) -> None:
    expected = [1 - sum(mass(law, n) for n in range(k)) for k in range(1, 12)]
    torch.testing.assert_close(
        law.survival(11), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-14
    )


@pytest.mark.parametrize("law", LAWS)
def test_draws_follow_the_mass(law: Length) -> None:
    torch.manual_seed(0)
    count = 200_000
    draws = law.draw((count,))
    assert draws.dtype == torch.int64
    for n in range(8):
        p = mass(law, n)
        found = float((draws == n).double().mean())
        # 5.3 standard deviations: false-positive rate 1e-7 each.
        assert abs(found - p) <= 5.3 * math.sqrt(p * (1 - p) / count) + 1e-12


def test_variance_radius() -> None:
    assert Geometric(0.5).variance_radius() == pytest.approx(0.70710678)
    assert Poisson(2.0).variance_radius() == 0


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0, math.nan])
def test_bad_laws(p: float) -> None:
    with pytest.raises(ValueError, match="stopping probability"):
        Geometric(p)
    with pytest.raises(ValueError, match="positive finite mean"):
        Poisson(min(p, 0.0))
    with pytest.raises(ValueError, match="positive finite mean"):
        Poisson(math.inf)
