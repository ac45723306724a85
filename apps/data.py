"""Fetch and convert data, see `python apps/data.py --help`."""

from flow_apps.cli import data

if __name__ == "__main__":
    data()
