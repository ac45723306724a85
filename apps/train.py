"""Train, see `python apps/train.py --help`."""

from flow_apps.cli import app

if __name__ == "__main__":
    app()
