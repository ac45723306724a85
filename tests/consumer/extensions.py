"""What users add themselves: a layer, a kind of block, an activation, a solver, an estimator."""

from dataclasses import dataclass
from typing import assert_type

import torch
from flow_core import (
    Bijection,
    Bounds,
    Chain,
    DenseNet,
    FixedPointBlock,
    LipschitzLinear,
    LipschitzMap,
    Pass,
    Settings,
    Solve,
    diagnose,
    lipschitz_certificate,
    record,
    repair_lipschitz,
)
from flow_core.lipschitz import Activation
from flow_core.testing import check_bijection
from flow_logdet import Kind, LogDet
from flow_solvers import BoundMap, Linearization, Method, Solution, Tolerance, iterate
from torch import Tensor, nn


class Stretch(Bijection):
    """y = x·e^s, one s per feature."""

    def __init__(self, features: int) -> None:
        super().__init__(event_shape=(features,))
        self.log_scale = nn.Parameter(torch.linspace(-0.3, 0.9, features))

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), how.log_det(x, lambda: self._log_det(x))

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        return y * (-self.log_scale).exp(), how.log_det(y, lambda: -self._log_det(y))

    def _log_det(self, x: Tensor) -> Tensor:
        return self.log_scale.sum().expand(len(x))


class Resolvent(FixedPointBlock):
    """w + G(w) = x, y = w."""

    def __init__(self, g: LipschitzMap) -> None:
        super().__init__([g])
        self.g = g

    def _transform(self, x: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        root = self._solve(how.bind(self.g), x, how)
        return root.value, -self._log_det(root, Kind.RESIDUAL, how)

    def _inverse(self, y: Tensor, how: Pass) -> tuple[Tensor, Tensor]:
        at_y = self._evaluate(how.bind(self.g), y, how)
        return y + at_y.value, self._log_det(at_y, Kind.RESIDUAL, how)

    def bounds(self) -> Bounds:
        """1/(1 - L) and 1 + L."""
        g = self.g.certificate()
        return Bounds(1 / (1 - g), 1 + g, (g,))


class Arctan(Activation):
    """arctan(x), of slope 1 at most."""

    def value_and_slope(self, a: Tensor, dim: int, params: object = None) -> tuple[Tensor, Tensor]:
        """arctan(a) and 1/(1 + a²)."""
        return torch.atan(a), 1 / (1 + a * a)


class HalfStep(Method):
    """One solve by w ← w + r/2."""

    def propose(self, w: Tensor, residual: Tensor, reset: Tensor | None) -> Tensor:
        """Half of the residual."""
        return residual / 2

    def select(self, index: Tensor) -> None:
        """Nothing is remembered."""


@dataclass(frozen=True)
class Halving:
    """The solver that makes half steps."""

    budget: int = 500

    def solve(self, bound: BoundMap, x: Tensor, start: Tensor, tolerance: Tolerance) -> Solution:
        """Solve w + G(w) = x from `start`."""
        return iterate(HalfStep(), bound, x, start, tolerance, budget=self.budget, patience=50)


@dataclass(frozen=True)
class Taylor:
    """tr f(J) = Σ a_k tr Jᵏ with dense matrices."""

    terms: int = 80

    def linearize(self, bound: BoundMap, w: Tensor) -> Linearization:
        """The plain linearization."""
        return bound.linearize(w)

    def log_det(self, linearization: Linearization, kind: Kind) -> LogDet:
        """The sum."""
        jacobian = linearization.jacobian()
        power, value = jacobian, jacobian.new_zeros(len(jacobian))
        for k in range(1, self.terms + 1):
            value = value + kind.coefficient(k) * power.diagonal(dim1=1, dim2=2).sum(1)
            power = power @ jacobian
        return LogDet(value, None, jacobian.shape[-1])


net = DenseNet(3, growth=4, depth=2, coeff=0.5, activation=Arctan())
chain = Chain([Stretch(3), Resolvent(net), Stretch(3)])
x = torch.linspace(-2, 2, 12).view(4, 3)
assert_type(chain(x), tuple[Tensor, Tensor])

check_bijection(Stretch(3), x)
check_bijection(chain, x)
precise = Solve(Halving(), tolerance=Tolerance(1e-13))
check_bijection(Resolvent(net), x, using=Settings(estimator=Taylor(), solve=precise))
with record(chain) as report:
    y, log_det = chain(x, using=Settings(estimator=Taylor(), solve=Solve(Halving())))
assert report.summary()["layers.1"].failures == 0
torch.testing.assert_close(y, chain.transform(x), rtol=1e-4, atol=1e-5)
torch.testing.assert_close(log_det, chain(x)[1], rtol=1e-4, atol=1e-5)
diagnostics = diagnose(chain, x)
assert not diagnostics.failures
assert diagnostics.bounds["layers.1"].maps == (net.certificate(),)
assert list(lipschitz_certificate(chain)) == ["layers.1.g"]
with torch.no_grad():
    for layer in net.modules():
        if isinstance(layer, LipschitzLinear):
            nn.init.normal_(layer.weight)  # as a bad step could leave it
assert repair_lipschitz(chain) == ["layers.1.g"]
assert all(bound < 1 for bound in lipschitz_certificate(chain).values())
