"""Which changes of a config leave a run what it is."""

import hashlib
import json
from collections.abc import Mapping

from flow_apps.config import differences, flat
from flow_apps.config.run import RunConfig
from flow_apps.errors import ConfigError

# What a resumed run may be told. Where its steps depend on it, config.json says from when on.
_FREE = (
    "contraction.on_solver_failure",
    "contraction.power_iterations",
    "contraction.test_power_iterations",
    "estimator.",
    "images.data_root",
    "images.test_",
    "test_size",
    "training.checkpoint_seconds",
    "training.device",
    "training.evaluate_every",
    "training.figures_every",
    "training.gradient_clip",
    "training.iterations",
    "training.log_every",
    "training.optimizer.learning_rate",
    "training.optimizer.schedule.",
    "training.optimizer.weight_decay",
    "training.threads",
    "training.tracker",
)


def fingerprint(experiment: str, stored: Mapping[str, object]) -> str:
    """A text that differs between configs whose weights have nothing to do with each other.

    Args:
        experiment: Its name.
        stored: The config as config.json has it: a field that the program got later is not in it.
    """
    fixed = {key: value for key, value in flat(stored).items() if not _is_free(key)}
    content = json.dumps([experiment, fixed], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def allowed_changes(
    before: RunConfig, after: RunConfig, run: object
) -> dict[str, tuple[object, object]]:
    """What a resumed run is told anew, by dotted key.

    Raises:
        ConfigError: If it would no longer be the same run, or if a schedule that follows the length
            of the run would change for the steps that are done.
    """
    changed = differences(before, after)
    scheduled = any(o.schedule.follows_length for o in before.training.optimizers)
    for key, (old, new) in changed.items():
        refused = f"{key} is {old} in {run} and cannot become {new} by --resume"
        if key == "training.iterations" and scheduled:
            raise ConfigError(
                f"{refused}: its learning rate follows the length of the run, so that steps that "
                "are done would have been others; start a new run"
            )
        if not _is_free(key):
            raise ConfigError(f"{refused}: it would be another run; start a new one")
    return changed


def _is_free(key: str) -> bool:
    return any(key.startswith(free) for free in _FREE)
