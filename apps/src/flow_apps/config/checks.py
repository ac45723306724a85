"""What configs refuse, in words that say what was expected."""

import difflib
from collections.abc import Sequence

from flow_apps.errors import ConfigError

# More of anything than a model or a run here can have: absurd values end at once, not after hours.
MOST = 1_000_000


def require(condition: bool, message: str) -> None:
    """Refuse a config.

    Raises:
        ConfigError: With `message`, if `condition` does not hold.
    """
    if not condition:
        raise ConfigError(message)


def require_counts(config: object, *names: str, least: int = 1, most: int = MOST) -> None:
    """Refuse fields that are no integers from `least` to `most`.

    Raises:
        ConfigError: Naming the first such field, its value and the limits.
    """
    for name in names:
        value = getattr(config, name)
        kind = "a positive integer" if least == 1 else f"{least} or more"
        require(value >= least, f"{name}: expected {kind}, got {value}")
        require(value <= most, f"{name}: expected at most {most:,}, got {value:,}")


def require_spread(test_size: int) -> None:
    """Refuse a test that can have no standard error.

    Raises:
        ConfigError: If it has fewer than two samples.
    """
    require(test_size > 1, f"test_size: expected at least 2 for a standard error, got {test_size}")


def suggestion(word: str, known: Sequence[str]) -> str:
    """`; did you mean …?` or nothing."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
