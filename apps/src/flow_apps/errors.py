"""Problems that a user can act on; the command line shows each as one line."""


class AppError(Exception):
    """A problem with the input, the disk or the numbers, not with the program."""


class ConfigError(AppError, ValueError):
    """A config key or value that cannot be used."""


class RunFolderError(AppError):
    """A run folder that is missing, foreign or already there."""


class DiskError(AppError, OSError):
    """A file that cannot be written."""


class CheckpointError(AppError):
    """A checkpoint that is damaged, foreign or does not fit the config."""


class TrainingFailure(AppError):
    """A step that produced no usable numbers."""


class FailureElsewhere(TrainingFailure):
    """What the processes tell that only hear of a failure of another one."""
