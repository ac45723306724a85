"""The numbers that define CPila, and its Lipschitz constant."""

import math

OFFSET = 0.2
NORMALIZER = 1.06

# The Jacobian's columns have disjoint supports, so its norm is the largest column norm,
# sup √(p'(x − .2)² + p'(−x − .2)²) / 1.06. For |x| ≥ .2 one slope is 1 and the other one is at
# most |p'(−.8)| = 19 e⁻⁴; for |x| < .2 the sum of squares stays below 1.083. One ulp up, so
# that rounding never makes the bound too small.
CPILA_LIPSCHITZ = math.nextafter(math.sqrt(1 + 361 * math.exp(-8)) / NORMALIZER, 1.0)
