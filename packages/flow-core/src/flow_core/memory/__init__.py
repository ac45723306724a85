"""Training in less memory: activations that are computed again, from inputs or by inversion."""

from flow_core.memory.drift import DriftError, DriftWarning
from flow_core.memory.policies import Checkpointed, MemoryPolicy, Reversible
from flow_core.memory.tape import KeptStep, MemoryTape, StepLedger
from flow_core.memory.wrapper import MemorySaving

__all__ = [
    "Checkpointed",
    "DriftError",
    "DriftWarning",
    "KeptStep",
    "MemoryPolicy",
    "MemorySaving",
    "MemoryTape",
    "Reversible",
    "StepLedger",
]
