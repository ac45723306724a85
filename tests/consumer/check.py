"""Install built wheels into a clean environment and check a small project against them.

Usage: check.py WHEELS FOLDER
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOOD = ("good.py", "extensions.py")
PLANTED = "# planted:"


def main(wheels: Path, folder: Path) -> None:
    """Build the environment, run the good files, and count what the checkers say of all."""
    folder.mkdir(parents=True)
    for name in (*GOOD, "bad.py"):
        shutil.copy(HERE / name, folder / name)
    python = environment(wheels, folder / "venv")
    for name in GOOD:
        run([str(python), "-W", "error", name], folder)
    checkers = {"mypy": mypy(python, folder), "basedpyright": basedpyright(python, folder)}
    wanted = planted_lines(folder / "bad.py")
    for checker, errors in checkers.items():
        bad = errors["bad.py"]
        for name in GOOD:
            if errors[name]:
                sys.exit(f"{checker}: expected no error in {name}, got {sorted(errors[name])}")
        if bad != wanted:
            sys.exit(f"{checker}: expected errors in lines {sorted(wanted)}, got {sorted(bad)}")
        clean = " and ".join(GOOD)
        print(f"{checker} --strict: {clean} clean, all {len(wanted)} planted errors caught")


def environment(wheels: Path, venv: Path) -> Path:
    """A clean environment with flow-core and flow-solvers from the wheels, nothing else of ours.

    Wheels of other projects come from the cache that the workspace already filled.
    """
    run(["uv", "venv", "--quiet", "--python", sys.executable, str(venv)], venv.parent)
    python = venv / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--python", str(python), "--find-links"]
    constraints = venv.parent / "constraints.txt"
    constraints.write_text(f"torch=={version('torch')}\nnumpy=={version('numpy')}\n")
    run([*install, str(wheels), "-c", str(constraints), "flow-core", "flow-solvers"], venv.parent)
    return python


def version(package: str) -> str:
    """The version installed in the workspace, so that nothing new is downloaded."""
    from importlib.metadata import version as installed  # noqa: PLC0415

    return installed(package).split("+")[0]


def planted_lines(path: Path) -> set[int]:
    """The lines that follow a marker."""
    lines = path.read_text().splitlines()
    return {i + 2 for i, line in enumerate(lines) if line.startswith(PLANTED)}


def mypy(python: Path, folder: Path) -> dict[str, set[int]]:
    """Lines with errors per file, by mypy --strict."""
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python)]
    command += ["--cache-dir", str(folder / "mypy"), "--config-file=", *GOOD, "bad.py"]
    text = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    errors: dict[str, set[int]] = {name: set() for name in (*GOOD, "bad.py")}
    for match in re.finditer(r"^(\S+\.py):(\d+): error", text, re.MULTILINE):
        errors[Path(match[1]).name].add(int(match[2]))
    return errors


def basedpyright(python: Path, folder: Path) -> dict[str, set[int]]:
    """Lines with errors per file, by basedpyright in strict mode."""
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", str(python)]
    command += [*GOOD, "bad.py"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    errors: dict[str, set[int]] = {name: set() for name in (*GOOD, "bad.py")}
    for item in json.loads(result.stdout)["generalDiagnostics"]:
        if item["severity"] == "error":
            errors[Path(item["file"]).name].add(item["range"]["start"]["line"] + 1)
    return errors


def run(command: list[str], folder: Path) -> None:
    """Run, and stop with the output if it fails."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stdout}\n{result.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
