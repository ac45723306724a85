"""Fused operations for invertible networks: CPila with its derivatives."""
