"""CPU seconds from the start of a process to the end of its first training step.

    python benchmarks/cold_start.py [--repeats N] [--out FILE]

Every run is `apps/train.py toy2d PRESET` with empty caches of compiled code. Child processes,
compilers above all, count. `torch` is an interpreter that imports torch and does nothing else,
`eager` a run without compilation. Linux only: times are read from /proc.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("2spirals-sandwich", "2spirals-monotone", "2spirals-idensenet")
_FIRST_STEP = re.compile(r"training from step 1")
_ENDED = "import os, torch; t = os.times(); print(t.user + t.system)"


def cpu_seconds(process: int) -> float:
    """Of a process and its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def to_first_step(preset: str, *, compiled: bool) -> float:
    """CPU seconds of a run until it says that its first step is done."""
    with tempfile.TemporaryDirectory() as place:
        caches = {"TMPDIR": place, "TORCHINDUCTOR_CACHE_DIR": f"{place}/inductor"}
        compile_it = f"compile={str(compiled).lower()}"
        options = ("--iterations", "1000000", "--set", compile_it, "--out", f"{place}/run")
        command = [sys.executable, str(ROOT / "apps" / "train.py"), "toy2d", preset, *options]
        environment = {**os.environ, **caches, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if _FIRST_STEP.search(line):
                    break
            seconds = cpu_seconds(process.pid)
            process.kill()
    return seconds


def importing_torch() -> float:
    """CPU seconds of an interpreter that imports torch."""
    done = subprocess.run(
        [sys.executable, "-c", _ENDED], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Print the table and write the JSON."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3, help="runs of each kind, in turns")
    arguments = options.parse_args()
    print(machine())
    rows: list[Row] = []
    for preset in PRESETS:
        rounds = [
            (
                importing_torch(),
                to_first_step(preset, compiled=False),
                to_first_step(preset, compiled=True),
            )
            for _ in range(arguments.repeats)
        ]
        torch_alone, eager, compiled = (
            statistics.median(times) for times in zip(*rounds, strict=True)
        )
        rows.append({"preset": preset, "torch": torch_alone, "eager": eager, "compiled": compiled})
    tables = {"CPU seconds to the end of the first step": rows}
    for title, table in tables.items():
        print_table(title, table)
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
