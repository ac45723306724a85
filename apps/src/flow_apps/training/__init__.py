"""One loop for every experiment: it trains, tests, saves, resumes and reports."""

from flow_apps.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from flow_apps.training.distributed import Ranks, find_device, ranks
from flow_apps.training.engine import Engine
from flow_apps.training.parts import (
    Batch,
    Builders,
    Certificate,
    Data,
    Figures,
    Loss,
    Parts,
    Scalars,
    Tested,
    Tests,
    Upkeep,
)
from flow_apps.training.progress import Display
from flow_apps.training.reporting import certify_and_say
from flow_apps.training.resumption import resume
from flow_apps.training.run_folder import RunFolder
from flow_apps.training.sharing import Workers
from flow_apps.training.state import TrainingState, load_model, require_state
from flow_apps.training.testing import final_workers

__all__ = [
    "Batch",
    "Builders",
    "Certificate",
    "Checkpoints",
    "Data",
    "Display",
    "Engine",
    "Figures",
    "Loss",
    "Parts",
    "Ranks",
    "RunFolder",
    "Scalars",
    "Tested",
    "Tests",
    "TrainingState",
    "Upkeep",
    "Workers",
    "certify_and_say",
    "final_workers",
    "find_device",
    "load_checkpoint",
    "load_model",
    "ranks",
    "require_state",
    "resume",
    "save_checkpoint",
]
