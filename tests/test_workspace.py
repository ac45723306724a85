"""What holds for the workspace as a whole: examples run, versions and bounds agree."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted((ROOT / "packages").iterdir())

PAGES = [
    ROOT / "README.md",
    *(p / "README.md" for p in [*PACKAGES, ROOT / "apps"]),
    *sorted((ROOT / "docs").glob("*.md")),
]


def _project(package: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return project


@pytest.mark.parametrize("page", PAGES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    if page.parent in PACKAGES:
        assert blocks, "every package README has a runnable example"
    for block in blocks:
        # A module of its own, where pickles find the classes of the example.
        module = ModuleType("example")
        monkeypatch.setitem(sys.modules, "example", module)
        exec(compile(block, str(page), "exec"), vars(module))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_changelog_names_the_version(package: Path) -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (package / "CHANGELOG.md").read_text(), re.M)
    assert versions, "a changelog has an entry per version"
    assert versions[0] == _project(package)["version"]


@pytest.mark.parametrize("package", [*PACKAGES, ROOT / "apps"], ids=lambda p: p.name)
def test_sibling_bounds_hold_the_sibling_versions(package: Path) -> None:
    versions = {p.name: _project(p)["version"] for p in PACKAGES}
    for requirement in _project(package)["dependencies"]:
        name = re.split(r"[<>=]", requirement)[0]
        if name not in versions:
            continue
        bounds = re.fullmatch(rf"{name}>=0\.(\d+),<0\.(\d+)", requirement)
        assert bounds, f"{package.name}: {requirement} needs both bounds"
        minor = int(versions[name].split(".")[1])
        assert int(bounds[1]) <= minor < int(bounds[2])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_the_readme_names_all_siblings_where_it_installs(package: Path) -> None:
    line = re.search(r"^pip install (.+)$", (package / "README.md").read_text(), re.M)
    assert line, "every package README says how to install it"
    assert set(line[1].split()) == {f"./packages/{name}" for name in _with_siblings(package.name)}


def _with_siblings(name: str) -> set[str]:
    """The package and all of ours that it needs."""
    requirements = _project(ROOT / "packages" / name)["dependencies"]
    siblings = {re.split(r"[<>=]", r)[0] for r in requirements} & {p.name for p in PACKAGES}
    return {name}.union(*(_with_siblings(sibling) for sibling in siblings))


@pytest.mark.parametrize("package", [*PACKAGES, ROOT / "apps"], ids=lambda p: p.name)
def test_packages_are_typed_and_licensed(package: Path) -> None:
    (source,) = (p for p in (package / "src").iterdir() if p.is_dir())
    assert (source / "py.typed").is_file()
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert _project(package)["requires-python"] == ">=3.11"


@pytest.mark.parametrize("package", [*PACKAGES, ROOT / "apps"], ids=lambda p: p.name)
def test_what_is_imported_is_declared_and_nothing_else(package: Path) -> None:
    project = _project(package)
    extras = project.get("optional-dependencies", {}).values()
    requirements = [r for part in (project["dependencies"], *extras) for r in part]
    declared = {re.split(r"[<>=]", requirement)[0] for requirement in requirements}
    distributions = packages_distributions()
    imported = {
        distribution
        for path in package.glob("src/**/*.py")
        for name in _imported_by(ast.parse(path.read_text()))
        # Installed in place, our own packages do not tell their modules.
        for distribution in distributions.get(name, [name.replace("_", "-")])
    }
    # torch brings Triton where there is one, and the fast paths do without.
    assert imported - {project["name"], "triton"} == declared


def _imported_by(tree: ast.Module) -> set[str]:
    """The packages that are imported anywhere in it, in functions too, less Python's own."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0):
                names.add(module)
            case ast.Call(func=ast.Name("import_module"), args=[ast.Constant(str(module))]):
                names.add(module)
            case _:
                pass
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


def test_importing_the_packages_does_not_start_a_compiler() -> None:
    names = ", ".join(p.name.replace("-", "_") for p in PACKAGES)
    code = (
        f"import sys, {names}; print([m for m in ('torch._dynamo', 'triton') if m in sys.modules])"
    )
    environment = {**os.environ, "JAXTYPING_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_public_class_or_type_has_two_meanings() -> None:
    places: dict[str, set[str]] = {}
    for path in (*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("apps/src/**/*.py")):
        for statement in ast.parse(path.read_text()).body:
            for name in _types_named_by(statement):
                places.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    assert len(places) > 200
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def _types_named_by(statement: ast.stmt) -> list[str]:
    """The public classes and type aliases of a statement."""
    match statement:
        case ast.ClassDef(name=name):
            names = [name]
        case ast.Assign(targets=targets):
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            names = [name]
        case _:
            names = []
    # Constants are in capitals throughout, types are not.
    return [name for name in names if name[0].isupper() and not name.isupper()]
