"""Test a trained run, see `python apps/evaluate.py --help`."""

import typer
from flow_apps.cli import evaluate

if __name__ == "__main__":
    typer.run(evaluate)
