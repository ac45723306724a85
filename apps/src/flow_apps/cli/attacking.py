"""Attacks on the inverses of runs."""

from pathlib import Path
from typing import Annotated

import typer

from flow_apps.cli.common import Checkpoint, CheckpointChoice, DataRoot, Device, shown_to_people


def attack(  # noqa: PLR0917 (typer passes options by name)
    run_folders: Annotated[list[Path], typer.Argument(help="Run folders, or imported weights.")],
    samples: Annotated[int, typer.Option(help="Test points, all attacked at once.")] = 64,
    seeds: Annotated[int, typer.Option(help="Attacks of their own, from seeds 0, 1, ...")] = 3,
    restarts: Annotated[
        int, typer.Option(help="Random starts of every seed, of which the worst counts.")
    ] = 1,
    epsilon: Annotated[
        float, typer.Option(help="Largest change of a value; half a bin of 5 bits as published.")
    ] = 0.5 / 32,
    steps: Annotated[int, typer.Option(help="Of every attack.")] = 200,
    step_size: Annotated[float, typer.Option(help="Of every value in a step.")] = 5e-4,
    own_limits: Annotated[
        bool,
        typer.Option(
            "--own-limits",
            help="Keep values between the smallest and largest of their image, as published; "
            "without it images in [0, 1].",
        ),
    ] = False,
    unrolled: Annotated[
        int | None,
        typer.Option(help="Follow gradients through so many steps of a solve; published: 5."),
    ] = None,
    nudge: Annotated[
        float, typer.Option(help="Follow how far an error of that l2 length of F(x) is carried.")
    ] = 0.0,
    points_of: Annotated[
        Path | None, typer.Option(help="Another run, whose test points are attacked.")
    ] = None,
    checkpoint: Checkpoint = CheckpointChoice.LAST,
    device: Device = None,
    data_root: DataRoot = None,
) -> None:
    """Look for samples near test points that come back wrong, and compare with what is proven."""
    with shown_to_people():
        from flow_core.diagnostics import ProjectedAscent  # noqa: PLC0415 (as above)

        from flow_apps.attack import AttackRequest, attack_runs  # noqa: PLC0415 (imports torch)
        from flow_apps.attack_table import table_of  # noqa: PLC0415 (as above)

        request = AttackRequest(
            checkpoint=checkpoint.value,
            device=device or "cpu",
            data_root=data_root,
            samples=samples,
            ascent=ProjectedAscent(
                epsilon=epsilon,
                steps=steps,
                step_size=step_size,
                seeds=tuple(range(seeds)),
                restarts=restarts,
                limits="own" if own_limits else None,
                nudge=nudge,
            ),
            unrolled=unrolled,
            points_of=points_of,
        )
        done = attack_runs(run_folders, request)
    for attacked in done:
        typer.echo(f"{attacked.name}: {attacked.found}")
    if len(done) > 1:
        typer.echo(table_of({attacked.name: attacked.found for attacked in done}))
