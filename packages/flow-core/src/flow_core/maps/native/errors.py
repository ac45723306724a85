"""The one error."""


class UnsupportedError(Exception):
    """There is no rule for an operation, or no compiler."""
