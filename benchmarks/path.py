"""How far one pass through one block wanders through our files.

    python benchmarks/path.py [--files]

The second eager call of a block on eight points of the plane, by `sys.setprofile`: files of ours in
which a function is called, changes of file from one call to the next, and calls. With --files they
are named, in the order of their first call.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import FrameType

import torch
from flow_core import DenseNet, Monotone, Residual


def files_called(call: Callable[[], object]) -> list[str]:
    """The file of every function of ours that is called, in order."""
    files: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        del argument
        name = frame.f_code.co_filename
        if event == "call" and "/src/flow_" in name:
            files.append(name.split("/src/")[1])

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", action="store_true")
    arguments = options.parse_args()
    torch.manual_seed(0)
    x = torch.randn(8, 2)
    for kind in (Residual, Monotone):
        block = kind(DenseNet(2))
        block(x)
        files = files_called(partial(block, x))
        changes = sum(a != b for a, b in pairwise(files))
        print(f"{kind.__name__}: {len(set(files))} files, {changes} changes, {len(files)} calls")
        if arguments.files:
            print("\n".join(f"    {name}" for name in dict.fromkeys(files)))


if __name__ == "__main__":
    main()
