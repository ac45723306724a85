"""Measure models on other images than theirs, see `python apps/ood.py --help`."""

import typer
from flow_apps.cli import ood

if __name__ == "__main__":
    typer.run(ood)
