"""Install each wheel alone, by pip from the folder of wheels, and run what its README shows.

Usage: alone.py WHEELS FOLDER. Each package gets an environment of its own in which torch is all
that was there before, so that what it imports and does not declare is missing, siblings included.
"""

import json
import sys
import time
import zipfile
from importlib.metadata import distributions
from pathlib import Path

from check import run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = {path.name: path for path in sorted((ROOT / "packages").iterdir())}
SOURCES["flow-apps"] = ROOT / "apps"
# What a package does besides: what is installed for it, and what is run then.
FURTHER = {
    "flow-data": ("flow-data[images]", ["python", "-I", str(HERE / "pictures.py")]),
    "flow-apps": ("flow-apps", ["flow", "presets"]),
}


def main(wheels: Path, folder: Path) -> None:
    """Compare what was built with the source tree, then install and run one after the other."""
    folder.mkdir(parents=True)
    (folder / "constraints.txt").write_text("\n".join(pins()))
    base = torch_alone(folder)
    rebuilt = wheels_of_sdists(base, wheels, folder / "rebuilt")
    for name in SOURCES:
        compare_files(name, wheels)
        compare_files(name, rebuilt)
    for name in SOURCES:
        began = time.monotonic()
        programs = new_environment(base, folder / name)
        siblings = install(name, programs, wheels, folder)
        run([str(programs / "python"), "-I", str(HERE / "readme.py"), name], folder / name)
        if name in FURTHER:
            wanted, command = FURTHER[name]
            install(wanted, programs, wheels, folder)
            run([str(programs / command[0]), *command[1:]], folder / name)
        beside = f"with {', '.join(siblings)}" if siblings else "alone"
        print(f"{name} {beside}: its README runs ({time.monotonic() - began:.0f} s)")


def pins() -> list[str]:
    """The versions of the workspace, so that a new one elsewhere does not fail a change here."""
    return sorted(f"{d.name}=={d.version}" for d in distributions() if d.name not in SOURCES)


def torch_alone(folder: Path) -> Path:
    """Site packages with torch, what torch needs, and pip.

    By uv, which links torch's gigabytes from the cache that the workspace already filled.
    """
    run(["uv", "venv", "--quiet", "--python", sys.executable, "base"], folder)
    install = ["uv", "pip", "install", "--quiet", "--python", "base/bin/python"]
    run([*install, "-c", "constraints.txt", "pip", "torch"], folder)
    return next(folder.glob("base/lib/python*/site-packages"))


def new_environment(base: Path, place: Path) -> Path:
    """The programs of an environment that sees `base` and nothing of the workspace."""
    place.mkdir()
    run([sys.executable, "-m", "venv", "--without-pip", "."], place)
    site_packages = next(place.glob("lib/python*/site-packages"))
    (site_packages / "base.pth").write_text(str(base))
    return place / "bin"


def wheels_of_sdists(base: Path, wheels: Path, place: Path) -> Path:
    """What pip makes of the source distributions."""
    python = new_environment(base, place) / "python"
    sdists = [str(path) for path in sorted(wheels.glob("*.tar.gz"))]
    run([str(python), "-m", "pip", "wheel", "--quiet", "--no-deps", *sdists], place)
    return place


def compare_files(name: str, wheels: Path) -> None:
    """A wheel holds the source tree and the licence, and no tests."""
    (wheel,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
    source = SOURCES[name] / "src"
    files = (path.relative_to(source) for path in source.rglob("*") if path.is_file())
    wanted = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    infos = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    metadata = ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")
    wanted |= {f"{infos}/{file}" for file in metadata}
    if name == "flow-apps":
        wanted.add(f"{infos}/entry_points.txt")
    with zipfile.ZipFile(wheel) as archive:
        found = {file for file in archive.namelist() if not file.endswith("/")}
    if found != wanted:
        sys.exit(f"{wheel}: lacks {sorted(wanted - found)}, has besides {sorted(found - wanted)}")


def install(wanted: str, programs: Path, wheels: Path, folder: Path) -> list[str]:
    """Install by pip, and tell which siblings came along.

    pip prefers a newer version from an index, so its report is asked where each of ours is from.
    """
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    pip += ["--find-links", str(wheels), "-c", "constraints.txt", "--report", "report.json"]
    run([*pip, wanted], folder)
    report = json.loads((folder / "report.json").read_text())
    places = {p["metadata"]["name"]: p["download_info"]["url"] for p in report["install"]}
    ours = {name: place for name, place in places.items() if name in SOURCES}
    for name, place in ours.items():
        if not place.startswith(wheels.as_uri()):
            sys.exit(f"{name}: expected a wheel from {wheels}, pip took {place}")
    return sorted(name for name in ours if name != wanted)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
