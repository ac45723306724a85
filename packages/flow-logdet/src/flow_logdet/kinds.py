"""The two functions of a Jacobian whose trace a flow needs."""

from enum import Enum


class Kind(Enum):
    """f in log-det = tr f(J), written as f(z) = Σ c·log(1 + s·z) over pairs (s, c).

    `RESIDUAL` is log det(I + J), of residual and implicit blocks; `MONOTONE` is
    log det(I - J) - log det(I + J), of monotone blocks, and an odd function of J.
    """

    RESIDUAL = ((1, 1),)
    MONOTONE = ((-1, 1), (1, -1))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs (s, c) of f(z) = Σ c·log(1 + s·z)."""
        pairs: tuple[tuple[int, int], ...] = self.value
        return pairs

    @property
    def slope(self) -> int:
        """f'(0): 1 or -2."""
        return sum(c * s for s, c in self.pairs)

    def coefficient(self, power: int) -> float:
        """The Taylor coefficient a_k of f(z) = Σ a_k zᵏ, k ≥ 1.

        (-1)ᵏ⁺¹/k for `RESIDUAL`; -2/k for odd k and 0 for even k for `MONOTONE`.
        """
        return float(sum(-c * (-s) ** power for s, c in self.pairs)) / power

    def last_power(self, limit: int) -> int:
        """The largest k ≤ limit with a_k ≠ 0: products beyond it would be wasted."""
        return limit - 1 if self is Kind.MONOTONE and limit % 2 == 0 else limit

    def tail(self, power: int, lipschitz: float) -> float:
        """A bound on Σ |a_k| Lᵏ over k > `power`: what a truncated series misses per dimension.

        Raises:
            ValueError: If the Lipschitz bound is not in [0, 1).
        """
        if not 0 <= lipschitz < 1:
            raise ValueError(
                f"expected a Lipschitz bound in [0, 1), got {lipschitz}: the series of the "
                "log-determinant converges only for contractions"
            )
        first = power + 1
        if self is Kind.RESIDUAL:
            return lipschitz**first / (first * (1 - lipschitz))
        first += (first + 1) % 2
        return float(2 * lipschitz**first / (first * (1 - lipschitz**2)))
