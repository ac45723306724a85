"""`data.py` fetches from a server on this machine, and verifies line by line."""

import functools
import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow_apps.cli.data import VERIFIED_NAMES
from flow_data import PRETRAINED, VERIFIED

Cli = Callable[..., Any]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of a checkpoint, served from a folder."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "server"
    folder.mkdir()
    with zipfile.ZipFile(folder / "glow.zip", "w") as archive:
        archive.writestr("glow/hparams.json", "{}")
        archive.writestr("glow/glow_affine_coupling.pt", b"weights")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        small = replace(
            PRETRAINED["pretrained-glow"],
            urls=(f"http://127.0.0.1:{running.server_port}/glow.zip",),
            size=range(1, 10_000),
            unpacked=10_000,
        )
        monkeypatch.setitem(PRETRAINED, "pretrained-glow", small)
        yield tmp_path / "data"
        running.shutdown()
        thread.join()


def test_prepare_then_verify_then_spoilt(cli: Cli, published: Path) -> None:
    asked = ("pretrained-glow", "--data-root", published)
    missing = cli("data", "verify", *asked)
    assert missing.exit_code == 1
    assert "WRONG" in missing.output
    prepared = cli("data", "prepare", *asked)
    assert prepared.exit_code == 0, prepared.output
    assert str(published / "pretrained/glow") in prepared.output
    assert "nobody published a digest of pretrained/glow.zip" in prepared.output
    found = cli("data", "verify", *asked)
    assert found.exit_code == 0, found.output
    lines = [line for line in found.output.splitlines() if line.startswith("ok")]
    assert len(lines) == 2
    (published / "pretrained/glow/hparams.json").write_text("[]")
    spoilt = cli("data", "verify", *asked)
    assert spoilt.exit_code == 1
    assert "expected contents with sha256" in spoilt.output
    assert "error: 1 of pretrained-glow are not as they should be" in spoilt.output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("verify", "tabular"), "tables are compared whenever they are read"),
        (("verify", "svnh"), "did you mean svhn"),
        (("prepare", "place365"), "did you mean places365"),
    ],
)
def test_other_names_are_refused(cli: Cli, command: tuple[str, ...], message: str) -> None:
    result = cli("data", *command)
    assert result.exit_code == 1
    assert message in result.output


def test_the_names_that_help_lists_are_those_of_the_library() -> None:
    assert set(VERIFIED_NAMES) == set(VERIFIED)
