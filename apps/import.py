"""Convert a published checkpoint, see `python apps/import.py --help`."""

import typer
from flow_apps.cli import import_published

if __name__ == "__main__":
    typer.run(import_published)
