"""One loop for every experiment: it trains, tests, saves, resumes and reports."""

from flow_apps.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from flow_apps.training.config import TrainingConfig, require
from flow_apps.training.distributed import Ranks, find_device, ranks
from flow_apps.training.engine import Engine
from flow_apps.training.objective import Batch, Objective
from flow_apps.training.overrides import (
    apply_overrides,
    differences,
    from_json,
    parse_assignments,
    to_json,
)
from flow_apps.training.reporting import repair_and_say
from flow_apps.training.resumption import resume
from flow_apps.training.run_folder import RunFolder
from flow_apps.training.state import TrainingState, load_tested_weights

__all__ = [
    "Batch",
    "Checkpoints",
    "Engine",
    "Objective",
    "Ranks",
    "RunFolder",
    "TrainingConfig",
    "TrainingState",
    "apply_overrides",
    "differences",
    "find_device",
    "from_json",
    "load_checkpoint",
    "load_tested_weights",
    "parse_assignments",
    "ranks",
    "repair_and_say",
    "require",
    "resume",
    "save_checkpoint",
    "to_json",
]
