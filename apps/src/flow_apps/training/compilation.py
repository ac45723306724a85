"""torch.compile, where the config asks for it and the machine can."""

import os
import shutil
import tempfile

from flow_apps.training.objective import Objective
from flow_apps.training.progress import say

_COMPILERS = ("c++", "g++", "clang++", "gcc", "clang")


def has_compiler() -> bool:
    """Whether there is a C++ compiler for the code that torch.compile writes."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ((named,) if named else _COMPILERS))


def compile_objective(objective: Objective, batch_size: int, *, visible: bool) -> bool:
    """Compile an objective for batches of one size, and return whether it was done.

    Without a C++ compiler the run says so once and goes on uncompiled.
    """
    if not has_compiler():
        say("no C++ compiler found: running without torch.compile, more slowly", visible=visible)
        return False
    # A cache that several jobs write at once is a source of rare failures.
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="flow-inductor-")
    objective.compile_model(batch_size)
    return True
