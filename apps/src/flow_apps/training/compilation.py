"""torch.compile, where the config asks for it and the machine can."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from flow_apps.config import TrainingConfig
from flow_apps.training.distributed import Ranks
from flow_apps.training.progress import Display

_COMPILERS = ("c++", "g++", "clang++", "gcc", "clang")
_CACHE = "TORCHINDUCTOR_CACHE_DIR"
COMPILED_PREFIX = ".compiled-"


def has_compiler() -> bool:
    """Whether there is a C++ compiler for the code that torch.compile writes."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ((named,) if named else _COMPILERS))


def compiled_sizes(config: TrainingConfig, ranks: Ranks, display: Display) -> frozenset[int]:
    """The batch sizes that training compiles for; none if it may not or cannot.

    Without a C++ compiler the run says so once and goes on uncompiled.
    """
    if not config.compile:
        return frozenset()
    if not has_compiler():
        display.say("no C++ compiler found: running without compiled code, more slowly")
        return frozenset()
    return frozenset([config.batch_size // (ranks.world * config.accumulate)])


@contextmanager
def private_cache(folder: Path, rank: int) -> Generator[None, None, None]:
    """Let compiled code go to a folder of this process alone, removed afterwards.

    A cache that several jobs write at once, or one was killed in, is a source of rare failures. One
    that the user has chosen is used.

    Args:
        folder: The run folder.
        rank: Of this process.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # noqa: PLC0415

    # Some libraries set the variable to what is the default anyway.
    if os.environ.get(_CACHE) not in (None, default_cache_dir()):
        yield
        return
    place = folder / f"{COMPILED_PREFIX}{rank}"
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(place.absolute())
    try:
        yield
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.environ.pop(_CACHE)
        if before is not None:
            os.environ[_CACHE] = before
