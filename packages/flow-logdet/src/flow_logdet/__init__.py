"""Log-determinants of I + J from products with J: exact, stochastic, Krylov."""
