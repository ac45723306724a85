"""Published sets of pictures in small: fetched from a server on this machine, and verified."""

import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flow_data import (
    PICTURES,
    PRETRAINED,
    Checksum,
    DataError,
    fetch_archive,
    load_picture_set,
    prepare_picture_set,
    verify_data,
)
from flow_data.integrity import bytes_checksum
from PIL import Image

CLASSES = ("A", "F")


def png(seed: int, side: int = 28) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (side, side + 2), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="png")
    return stream.getvalue()


def members(top: str, broken: str | None = None) -> dict[str, bytes]:
    found = {f"{top}/{c}/{k}.png": png(10 * i + k) for i, c in enumerate(CLASSES) for k in range(3)}
    found[f"{top}/A/._0.png"] = b"what macOS leaves"
    if broken is not None:
        found[f"{top}/{broken}"] = b""
    return found


def tar(content: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def zipped(content: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return stream.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves files by their names."""

    files: dict[str, bytes] = {}  # noqa: RUF012 (of the whole server)
    requests: list[str] = []  # noqa: RUF012 (as above)

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path not in self.files:
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.files[self.path])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    Handler.files.clear()
    Handler.requests.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def serve(
    monkeypatch: pytest.MonkeyPatch, server: str, name: str, content: bytes, count: int
) -> None:
    """Have a set come from this server, with the digest of its content where it has one."""
    Handler.files[f"/{name}"] = content
    source = PICTURES[name]
    known = None if source.archive.checksum is None else bytes_checksum([content], "md5")
    archive = replace(
        source.archive,
        urls=(f"{server}/{name}",),
        size=range(1, 10**6),
        unpacked=10**6,
        checksum=known,
        files=count if source.archive.files is not None else None,
    )
    monkeypatch.setitem(PICTURES, name, replace(source, archive=archive, count=count))


def lines(name: str, root: Path) -> list[str]:
    return [str(finding).replace(str(root), "ROOT") for finding in verify_data(name, root)]


def test_a_set_is_fetched_once_read_and_verified(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, server, "imagenet_resize", tar(members("Imagenet_resize")), 6)
    for _ in range(2):
        assert prepare_picture_set("imagenet_resize", tmp_path) == tmp_path / "Imagenet_resize"
    assert Handler.requests == ["/imagenet_resize"]
    images = load_picture_set("imagenet_resize", tmp_path, 28)
    whole = np.asarray(Image.open(io.BytesIO(png(0))))[:, 1:-1]
    assert np.array_equal(images.images[0].numpy(), np.stack(3 * [whole]))
    few = load_picture_set("imagenet_resize", tmp_path, 14, most=2)
    assert few.shape == (3, 14, 14)
    assert len(few) == 2
    told = lines("imagenet_resize", tmp_path)
    assert [line.split()[:2] for line in told] == [
        ["ok", "ROOT/Imagenet_resize.tar.gz"],
        ["ok", "ROOT/Imagenet_resize"],
        ["ok", "ROOT/Imagenet_resize"],
    ]
    assert "6 files, contents as they were unpacked" in told[1]


def test_what_is_wrong_is_told_line_by_line(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, server, "imagenet_resize", tar(members("Imagenet_resize")), 6)
    folder = prepare_picture_set("imagenet_resize", tmp_path)
    (folder / "F" / "1.png").write_bytes(png(11)[:-30])
    (tmp_path / "Imagenet_resize.tar.gz").write_bytes(b"another")
    archive, contents, count, broken = lines("imagenet_resize", tmp_path)
    assert archive.startswith("WRONG  ROOT/Imagenet_resize.tar.gz  expected md5")
    assert contents.startswith("WRONG  ROOT/Imagenet_resize  expected contents with sha256")
    assert count.startswith("ok")
    assert broken.startswith("WRONG  ROOT/Imagenet_resize/F/1.png  broken: ")
    with pytest.raises(DataError, match=r"F/1\.png"):
        load_picture_set("imagenet_resize", tmp_path, 28)
    (folder / "F" / "1.png").unlink()
    with pytest.raises(DataError, match="expected 6 pictures, got 5"):
        load_picture_set("imagenet_resize", tmp_path, 28)
    assert len(load_picture_set("imagenet_resize", tmp_path, 28, verify="format")) == 5


def test_known_broken_pictures_are_left_out_and_named(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = PICTURES["notmnist"].broken[0]
    serve(monkeypatch, server, "notmnist", tar(members("notMNIST_small", broken)), 7)
    folder = prepare_picture_set("notmnist", tmp_path)
    assert len(load_picture_set("notmnist", tmp_path, 28)) == 6
    told = lines("notmnist", tmp_path)
    assert told[-1].startswith(f"ok  ROOT/notMNIST_small/{broken}  known to be broken, left out")
    (folder / "A" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 that are not: A/0\.png"):
        load_picture_set("notmnist", tmp_path, 28)


def test_a_digest_that_nobody_published_is_pinned(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, server, "lsun_crop", tar(members("LSUN")), 6)
    folder = prepare_picture_set("lsun_crop", tmp_path)
    manifest = json.loads((tmp_path / ".LSUN.prepared.json").read_text())
    assert manifest["digest"] == "pinned at first use"
    assert "as pinned at first use" in lines("lsun_crop", tmp_path)[0]
    folder.rename(tmp_path / "old")
    (tmp_path / "LSUN.tar.gz").unlink()
    Handler.files["/lsun_crop"] = tar({**members("LSUN"), "LSUN/A/0.png": png(99)})
    with pytest.raises(DataError, match=r"remove .*\.LSUN\.prepared\.json if this is what"):
        prepare_picture_set("lsun_crop", tmp_path)
    assert not folder.exists()


def test_zip_archives(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = members("images_evaluation")
    del content["images_evaluation/A/._0.png"]
    serve(monkeypatch, server, "omniglot", zipped(content), 6)
    assert prepare_picture_set("omniglot", tmp_path) == tmp_path / "omniglot-py/images_evaluation"
    assert len(load_picture_set("omniglot", tmp_path, 28)) == 6
    assert all(line.startswith("ok") for line in lines("omniglot", tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({"images_evaluation/../../x": b""}), "files in the archive alone"),
        (zipped({"other/x.png": b""}), "a folder images_evaluation"),
        (zipped({"images_evaluation/x.png": b"1"}), "expected 6 files, got 1"),
        (zipped({"images_evaluation/x.png": bytes(10**6 + 1)}), "at most 1000000 bytes"),
        (zipped(members("images_evaluation"))[:-40], "a whole and harmless zip archive"),
    ],
)
def test_spoilt_zip_archives_leave_no_folder(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    serve(monkeypatch, server, "omniglot", content, 6)
    with pytest.raises(DataError, match=message):
        prepare_picture_set("omniglot", tmp_path)
    assert [path.name for path in (tmp_path / "omniglot-py").iterdir()] == ["images_evaluation.zip"]


def test_missing_sets_say_what_to_fetch_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fetch https://www.robots\S+ and unpack it there") as no:
        load_picture_set("dtd", tmp_path, 32)
    assert no.value.subject == str(tmp_path / "dtd/dtd/images")
    assert all(line.startswith("WRONG") for line in lines("dtd", tmp_path))
    with pytest.raises(ValueError, match="did you mean"):
        load_picture_set("places", tmp_path, 32)


def test_pretrained_archives(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is a file, or a folder of two."""
    inside = {"glow/hparams.json": b"{}", "glow/glow_affine_coupling.pt": b"weights"}
    Handler.files |= {"/glow.zip": zipped(inside), "/resflow.pth": b"weights"}
    for name, file in (("pretrained-glow", "glow.zip"), ("pretrained-resflow", "resflow.pth")):
        small = {"urls": (f"{server}/{file}",), "size": range(1, 10**6)}
        room = min(PRETRAINED[name].unpacked, 10**6)
        archive = replace(PRETRAINED[name], unpacked=room, **small)  # type: ignore[arg-type]  # by name
        monkeypatch.setitem(PRETRAINED, name, archive)
        assert lines(name, tmp_path)[0].startswith("WRONG")
        place = fetch_archive(tmp_path, archive)
        assert place.exists()
        assert all(line.startswith("ok") for line in lines(name, tmp_path))
    (tmp_path / "pretrained/glow/hparams.json").unlink()
    assert "expected hparams.json" in lines("pretrained-glow", tmp_path)[-1]
    (tmp_path / "pretrained/cifar10_resflow_16-16-16.pth").write_bytes(b"others")
    assert "as pinned at first use, got" in lines("pretrained-resflow", tmp_path)[0]


def test_published_digests_are_those_of_md5() -> None:
    sources = [source.archive for source in PICTURES.values()]
    known = [archive.checksum for archive in sources if archive.checksum is not None]
    assert all(len(c.hexdigest) == 32 and c.algorithm == "md5" for c in known)
    assert Checksum("md5", "fff73e5086ae6bdbea199a49dfb8a4c1") in known
    places = [archive.folder for archive in sources]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(("name", "files"), [("mnist", 4), ("cifar10", 7), ("svhn", 2)])
def test_a_line_for_every_file(tmp_path: Path, name: str, files: int) -> None:
    told = lines(name, tmp_path)
    assert len(told) == files
    assert all(line.startswith("WRONG") and "No such file" in line for line in told)


def test_files_of_another_content_are_told(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.parent.mkdir()
    path.write_bytes(b"another")
    told = [line for line in lines("cifar10", tmp_path) if "test_batch" in line]
    assert "expected md5 40351d587109b95175f43aff81a1287e, got md5 b32d73e5" in told[0]
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    header = bytes([0, 0, 8, 1, 0, 0, 0, 2])
    (raw / "t10k-labels-idx1-ubyte").write_bytes(header + b"\x01\x02")
    told = [line for line in lines("fashion_mnist", tmp_path) if "t10k-labels" in line]
    assert "got md5" in told[0]
