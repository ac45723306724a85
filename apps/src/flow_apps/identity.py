"""Which changes of a config leave a run what it is."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flow_apps.config import differences, flat
from flow_apps.config.run import RunConfig
from flow_apps.errors import ConfigError
from flow_apps.registry import Experiment

# What a resumed run may be told, besides what its experiment adds; a dot ends a whole section.
# Where its steps depend on it, config.json says from when on.
_FREE = (
    "contraction.on_solver_failure",
    "contraction.power_iterations",
    "contraction.test_power_iterations",
    "estimator.",
    "training.checkpoint_seconds",
    "training.device",
    "training.divergence_margin",
    "training.rate_after_failure",
    "training.evaluate_every",
    "training.figures_every",
    "training.gradient_clip",
    "training.iterations",
    "training.log_every",
    "training.max_failures",
    "training.memory",
    "training.memory_layers",
    "training.on_failure",
    "training.optimizer.learning_rate",
    "training.optimizer.schedule.",
    "training.optimizer.weight_decay",
    "training.threads",
    "training.tracker_project",
    "training.trackers",
)


def fingerprint(experiment: Experiment[Any], stored: Mapping[str, object]) -> str:
    """A text that differs between configs whose weights have nothing to do with each other.

    Args:
        experiment: What it is a config of.
        stored: The config as config.json has it: a field that the program got later is not in it.
    """
    fixed = {k: v for k, v in flat(stored).items() if not _is_free(k, experiment)}
    content = json.dumps([experiment.name, fixed], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def allowed_changes(
    experiment: Experiment[Any], before: RunConfig, after: RunConfig, run: object
) -> dict[str, tuple[object, object]]:
    """What a resumed run is told anew, by dotted key.

    Raises:
        ConfigError: If it would no longer be the same run, or if a schedule that follows the length
            of the run would change for the steps that are done.
    """
    changed = differences(before, after)
    optimizers = (*before.training.optimizers, *after.training.optimizers)
    scheduled = any(optimizer.schedule.follows_length for optimizer in optimizers)
    for key, (old, new) in changed.items():
        refused = f"{key} is {old} in {run} and cannot become {new} by --resume"
        if key == "training.iterations" and scheduled:
            raise ConfigError(
                f"{refused}: its learning rate follows the length of the run, so that steps that "
                "are done would have been others; start a new run"
            )
        if not _is_free(key, experiment):
            raise ConfigError(f"{refused}: it would be another run; start a new one")
    return changed


def _is_free(key: str, experiment: Experiment[Any]) -> bool:
    free = (*_FREE, *experiment.changeable)
    return any(key.startswith(name) if name.endswith(".") else key == name for name in free)
