"""What there is to train: presets, and every field of their configs."""

import json
import sys
import textwrap
from itertools import groupby
from typing import Annotated

import typer

from flow_apps.cli.common import Assignments, shown_to_people
from flow_apps.config import FieldDescription, describe, parse_assignments
from flow_apps.config.overrides import apply_overrides
from flow_apps.experiments import all_presets, find_preset

AsJson = Annotated[
    bool, typer.Option("--json", help="As JSON, with published commands and parameters counted.")
]
Names = Annotated[list[str] | None, typer.Argument(help="Names of presets; all without any.")]
PresetName = Annotated[
    str, typer.Argument(help="A name from `presets`, or a command for its default.")
]


def add_listing(app: typer.Typer) -> None:
    """Add the commands `presets` and `config`."""
    app.command()(presets)
    app.command()(config)


def presets(names: Names = None, as_json: AsJson = False) -> None:
    """List the presets, by the command that they belong to."""
    with shown_to_people():
        chosen = [find_preset(name) for name in names] if names else list(all_presets())
        if as_json:
            from flow_apps.counting import described_presets  # noqa: PLC0415 (imports torch)

            typer.echo(json.dumps(described_presets(chosen), indent=2))
            return
    width = max(len(preset.name) for _, preset in chosen)
    for experiment, group in groupby(chosen, key=lambda pair: pair[0]):
        typer.echo(f"{experiment.name}: {experiment.summary}")
        for _, preset in group:
            typer.echo(f"  {preset.name:<{width}}  {preset.summary}")


def config(preset: PresetName, assignments: Assignments = None) -> None:
    """Show every field of a preset's config: type, value and meaning."""
    with shown_to_people():
        experiment, found = find_preset(preset)
        changed = apply_overrides(found.config, parse_assignments(assignments or []))
    typer.echo(f"{experiment.name} {found.name}: {found.summary}")
    if found.published:
        typer.echo(textwrap.fill(f"stands for: {found.published}", 80))
    for line in describe(changed):
        _show(line)


def _show(line: FieldDescription) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.padding import Padding  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=sys.stdout, highlight=False)
    console.print(Text.assemble((line.key, "bold"), f" = {line.value}"))
    meaning = Text(f"{line.kind}. {line.meaning}")
    console.print(Padding(meaning, (0, 0, 0, 4), expand=False))
