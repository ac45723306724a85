"""Attack the inverse of trained runs, see `python apps/attack.py --help`."""

import typer
from flow_apps.cli import attack

if __name__ == "__main__":
    typer.run(attack)
