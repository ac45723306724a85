"""The contract of a bijection, as a test of anybody's layer."""

from flow_core.testing.check import CHECKS, check_bijection

__all__ = ["CHECKS", "check_bijection"]
