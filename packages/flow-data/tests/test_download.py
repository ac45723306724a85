"""Downloads from a server on this machine: whole and verified, or nothing."""

import errno
import gzip
import hashlib
import http.server
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from flow_data import Checksum, DataError, download, download_mnist, file_checksum, load_mnist
from flow_data.images import mnist
from flow_data.images.published import Family, PublishedFile, PublishedPart

CONTENT = bytes(range(256)) * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `CONTENT`, well or badly as the address says."""

    requests: list[str] = []  # noqa: RUF012 (one record for the whole server)

    def do_GET(self) -> None:
        Handler.requests.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/truncated":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(body(self.path))
        if self.path == "/stalls":
            self.wfile.flush()
            time.sleep(20)

    def log_message(self, format: str, *args: object) -> None:
        pass


def body(path: str) -> bytes:
    if path in ("/truncated", "/stalls"):
        return CONTENT[: len(CONTENT) // 2]
    if path == "/too-long":
        return CONTENT + b"x"
    if path == "/wrong":
        return CONTENT[:-1] + b"x"
    if path.startswith("/mnist/"):
        return archive(path.rpartition("/")[2])
    return CONTENT


def archive(name: str) -> bytes:
    return gzip.compress(name.encode(), mtime=0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    Handler.requests.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.block_on_close = False
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


CHECKSUM = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())


def fetch(urls: list[str], destination: Path, timeout: float = 5.0) -> Path:
    return download(urls, destination, checksum=CHECKSUM, size=len(CONTENT), timeout=timeout)


def test_a_good_download(server: str, tmp_path: Path) -> None:
    path = fetch([f"{server}/good"], tmp_path / "new" / "file.bin")
    assert path.read_bytes() == CONTENT
    assert file_checksum(path, "sha256") == CHECKSUM
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "404"),
        ("truncated", "got 128000 bytes"),
        ("too-long", "got more"),
        ("wrong", "content has sha256"),
        ("stalls", "timed out"),
    ],
)
def test_a_bad_download_leaves_nothing(
    server: str, tmp_path: Path, path: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fetch([f"{server}/{path}"], tmp_path / "file.bin", timeout=0.3)
    assert f"{server}/{path}" in caught.value.found
    assert list(tmp_path.iterdir()) == []


def test_the_next_mirror_is_tried(server: str, tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:9/refused", "ftp://no", f"{server}/wrong", f"{server}/good"]
    assert fetch(urls, tmp_path / "file.bin").read_bytes() == CONTENT
    assert Handler.requests == ["/wrong", "/good"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_present_file_is_kept_without_the_network(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    fetch([f"{server}/good"], tmp_path / "file.bin")
    assert Handler.requests == []


def test_another_file_is_never_overwritten(server: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="nothing was overwritten"):
        fetch([f"{server}/good"], tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == b"mine"


def test_a_full_disk_is_one_clear_error(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device; free some space"):
        fetch([f"{server}/good"], tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_room_is_looked_for_before_the_first_byte(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def little(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=len(CONTENT) + 9)

    monkeypatch.setattr(shutil, "disk_usage", little)
    urls, size, path = [f"{server}/good"], len(CONTENT), tmp_path / "file.bin"
    with pytest.raises(DataError, match="256010 free bytes, got 256009; free some space"):
        download(urls, path, checksum=CHECKSUM, size=size, room=10)
    assert Handler.requests == []
    assert download(urls, path, checksum=CHECKSUM, size=size, room=9).exists()


def test_a_folder_that_cannot_be_made(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="room to write"):
        fetch([f"{server}/good"], tmp_path / "file" / "file.bin")


KILLED = """
import sys
from pathlib import Path
from flow_data import Checksum, download
checksum = Checksum("sha256", sys.argv[3])
download([sys.argv[1]], Path(sys.argv[2]), checksum=checksum, size=256000)
"""


def test_a_killed_download_leaves_no_final_file(server: str, tmp_path: Path) -> None:
    destination = tmp_path / "file.bin"
    arguments = [f"{server}/stalls", str(destination), CHECKSUM.hexdigest]
    with subprocess.Popen([sys.executable, "-c", KILLED, *arguments]) as process:
        wait_for_part(tmp_path, process)
        process.send_signal(signal.SIGKILL)
    assert not destination.exists()
    assert fetch([f"{server}/good"], destination).read_bytes() == CONTENT


def wait_for_part(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in folder.glob(".file.bin.*.part")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_interruption_removes_the_temporary_file(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch([f"{server}/good"], tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def small_family() -> Family:
    def file(stem: str) -> PublishedFile:
        content = archive(f"{stem}.gz")
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        return PublishedFile(stem, "", digest, len(content))

    def part(prefix: str) -> PublishedPart:
        images = file(f"{prefix}-images-idx3-ubyte")
        return PublishedPart(images, file(f"{prefix}-labels-idx1-ubyte"), 1)

    return Family("MNIST", (), part("train"), part("t10k"))


def test_download_mnist_fetches_the_four_archives(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "MNIST", small_family())
    download_mnist(tmp_path, mirrors=[f"{server}/mnist/"])
    names = sorted(path.name for path in (tmp_path / "MNIST" / "raw").iterdir())
    assert names == sorted(
        f"{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    )
    with pytest.raises(DataError, match="begins with 74726169"):
        load_mnist(tmp_path)


def test_download_mnist_refuses_what_is_not_mnist(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="9912422 bytes of md5 f68b3c2d"):
        download_mnist(tmp_path, mirrors=[f"{server}/mnist/"])
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


def test_a_data_error_survives_pickling() -> None:
    error = DataError("file", "this", "that", "do something")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "file: expected this, got that; do something"
    assert again.remedy == "do something"


def test_digest_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a readable file, got No such file"):
        file_checksum(tmp_path / "none", "md5")
