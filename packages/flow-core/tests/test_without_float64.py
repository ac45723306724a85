"""Devices without float64: nothing makes it there, and what needs it computes on the CPU."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "without_float64.py"


def test_every_bijection_estimator_and_solver_works_on_a_device_without_float64() -> None:
    """In a process of its own: a device that torch knows stays known."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    count, _, failures = done.stdout.splitlines()[-1].partition(" bijections, ")
    assert failures == "0 failures", done.stdout
    assert int(count) > 80
