"""Measure how stable the inverse of a trained run is, see `python apps/stability.py --help`."""

import typer
from flow_apps.cli import stability

if __name__ == "__main__":
    typer.run(stability)
