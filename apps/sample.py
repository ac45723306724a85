"""Sample a trained run, see `python apps/sample.py --help`."""

import typer
from flow_apps.cli import sample

if __name__ == "__main__":
    typer.run(sample)
