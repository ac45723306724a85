"""How wrong reconstructions of a trained run become near its test points."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from flow_core.bijection import Bijection
from flow_core.diagnostics import InverseAttack, ProjectedAscent, attack_inverse
from flow_core.distributions import Flow
from flow_core.settings import Settings
from flow_core.unrolled import UnrolledSolve
from jaxtyping import Float
from torch import Tensor

from flow_apps.attack_table import rows_of, table_of
from flow_apps.errors import ConfigError
from flow_apps.figures.attack import draw_attacks, draw_panels
from flow_apps.importing import is_imported, load_imported
from flow_apps.loading import Choice
from flow_apps.stability import load_invertible
from flow_apps.training import Display
from flow_apps.training.files import write_atomic, write_json
from flow_apps.training.randomness import isolated

FOLDER = "attack"
_OF_IMAGES = 4


@dataclass(frozen=True)
class AttackRequest:
    """What is asked of runs.

    Attributes:
        checkpoint: Which weights.
        device: As torch writes it.
        data_root: Where the data are now; None for where they were.
        samples: Test points that are attacked.
        ascent: How; images are kept in [0, 1] where it has no limits.
        unrolled: Steps of unrolled solves whose gradients are followed; None for implicit ones.
        points_of: A run whose test points are attacked; imported folders have none of their own.
    """

    checkpoint: Choice = "last"
    device: str = "cpu"
    data_root: str | None = None
    samples: int = 64
    ascent: ProjectedAscent = field(default_factory=ProjectedAscent)
    unrolled: int | None = None
    points_of: Path | None = None


class Attacked(NamedTuple):
    """A run and what became of it.

    Attributes:
        name: Of its folder.
        found: By the attack.
    """

    name: str
    found: InverseAttack


class _Target(NamedTuple):
    """What of a run is attacked."""

    bijection: Bijection
    x: Float[Tensor, " samples *event"]
    using: Settings | None
    told: dict[str, object]


def attack_runs(paths: Sequence[Path], request: AttackRequest) -> list[Attacked]:
    """Attack runs, and write `attack/` into the folder of each.

    That is report.json, report.txt, curves.png and, of images, panels.png; of several runs also
    comparison.json, .txt and .png, into the folder of the first.

    Raises:
        AppError: If a run cannot be read, its model has no inverse, or it has too few test points.
        DataError: If the data are missing or damaged; it says where they were.
    """
    if request.samples < 1:
        raise ConfigError(f"samples: expected at least one, got {request.samples}")
    display = Display()
    done: list[Attacked] = []
    for path in paths:
        with display.phase(f"loading {path}"):
            target = _target(path, request, display)
        with display.phase(f"attacking {path}"):
            found = _attacked(target, request)
        done.append(Attacked(path.resolve().name, found))
        _write(path / FOLDER, done[-1], target.told | {"request": _told(request)})
    if len(done) > 1:
        _compare(paths[0] / FOLDER, done)
    return done


def _attacked(target: _Target, request: AttackRequest) -> InverseAttack:
    followed = None
    if request.unrolled is not None:
        followed = Settings(solve=UnrolledSolve(steps=request.unrolled))
    with isolated(target.x.device, 0, "attack"):
        return attack_inverse(
            target.bijection,
            target.x,
            _within_images(request.ascent, target.x),
            using=target.using,
            followed=followed,
        )


def _within_images(ascent: ProjectedAscent, x: Tensor) -> ProjectedAscent:
    if x.ndim != _OF_IMAGES or ascent.limits is not None:
        return ascent
    return replace(ascent, limits=(0.0, 1.0))


def _target(path: Path, request: AttackRequest, display: Display) -> _Target:
    if is_imported(path):
        if request.points_of is None:
            raise ConfigError(
                f"{path}: imported weights have no test points; give a run as --points-of"
            )
        flow: Flow = load_imported(path, request.device)
        x = _own(request.points_of, request, display).x
        return _Target(flow.bijection, x, None, {"imported": str(path)})
    own = _own(path, request, display)
    if request.points_of is None:
        return own
    return own._replace(x=_own(request.points_of, request, display).x)


def _own(path: Path, request: AttackRequest, display: Display) -> _Target:
    """A run with its own test points."""
    run, inverse = load_invertible(
        path,
        display,
        checkpoint=request.checkpoint,
        device=request.device,
        data_root=request.data_root,
    )
    x = inverse.points(request.samples)
    if len(x) < request.samples:
        raise ConfigError(
            f"samples: expected at most the {len(x)} test points of {path}, got {request.samples}"
        )
    told: dict[str, object] = {"checkpoint": request.checkpoint, "step": run.step}
    return _Target(inverse.bijection, x, inverse.using, told)


def _told(request: AttackRequest) -> dict[str, object]:
    told: dict[str, object] = asdict(request)
    points = request.points_of
    told["points_of"] = None if points is None else str(points)
    return told


def _write(folder: Path, attacked: Attacked, told: dict[str, object]) -> None:
    folder.mkdir(exist_ok=True)
    found = attacked.found
    write_json(folder / "report.json", {**told, **found.to_dict()})
    write_atomic(folder / "report.txt", f"{found}\n".encode())
    draw_attacks({attacked.name: found}, folder / "curves.png")
    if found.x.ndim == _OF_IMAGES:
        draw_panels(found, folder / "panels.png")


def _compare(folder: Path, done: Sequence[Attacked]) -> None:
    found = {attacked.name: attacked.found for attacked in done}
    if len(found) < len(done):
        found = {f"{i}-{a.name}": a.found for i, a in enumerate(done)}
    write_json(folder / "comparison.json", rows_of(found))
    write_atomic(folder / "comparison.txt", f"{table_of(found)}\n".encode())
    draw_attacks(found, folder / "comparison.png")
