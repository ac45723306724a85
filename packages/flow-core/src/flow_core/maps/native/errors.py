"""What keeps a function from being compiled."""


class UnsupportedError(Exception):
    """There is no rule for an operation, or no compiler."""


class FaultyCompilerError(UnsupportedError):
    """There is a compiler, but it fails, or what it made gives other numbers."""
