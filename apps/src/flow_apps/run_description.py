"""What the config.json of a run folder says; nothing here needs torch."""

import json
from pathlib import Path
from typing import Any, cast

from flow_apps.errors import RunFolderError

CONFIG_NAME = "config.json"


def require_run(folder: Path) -> None:
    """Refuse a folder that holds no run.

    Raises:
        RunFolderError: If it has no config.json.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise RunFolderError(f"no such run: {path} does not exist")


def read_description(folder: Path) -> dict[str, Any]:
    """What config.json says: `experiment`, `config`, `versions`, `command`, `changes`.

    Raises:
        RunFolderError: If there is none, or it is damaged.
    """
    require_run(folder)
    path = folder / CONFIG_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path}: {error}") from error
    described = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    if not (
        isinstance(described.get("experiment"), str) and isinstance(described.get("config"), dict)
    ):
        raise RunFolderError(f"{path} is not the config of a run")
    return described
