"""The data of a run, wherever they are now."""

from collections.abc import Generator
from contextlib import contextmanager

from flow_data import DataError

from flow_apps.config import apply_overrides
from flow_apps.config.run import RunConfig
from flow_apps.errors import ConfigError
from flow_apps.loading import LoadedRun


def moved(run: LoadedRun, data_root: str | None) -> RunConfig:
    """The config with the place where the data are now.

    Raises:
        ConfigError: If this run has no data on disk.
    """
    if data_root is None:
        return run.config
    try:
        return apply_overrides(run.config, {"data_root": data_root})
    except ConfigError as error:
        raise ConfigError(f"data_root: a run of {run.experiment.name} reads no data") from error


@contextmanager
def reading_own_data() -> Generator[None, None, None]:
    """Say of data that are not there what can be done about it.

    Raises:
        DataError: If they are missing or damaged; it says where they were.
    """
    try:
        yield
    except DataError as error:
        raise DataError(
            error.subject,
            error.expected,
            error.found,
            f"{error.remedy}; the data of this run are read from there, give their present folder "
            "as --data-root",
        ) from error
