"""The archive of published tables, small: fetched, taken out, converted, divided as published."""

import functools
import hashlib
import http.server
import io
import os
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from flow_data import (
    PUBLISHED_TABLES,
    Checksum,
    DataError,
    TableSplits,
    load_published_table,
    prepare_tables,
)
from flow_data.tabular import TableArchive, preprocessing
from flow_data.tabular.frames import PickledFrame

RNG = np.random.default_rng(0)
COUNT = 200
POWER = np.column_stack([np.arange(COUNT), *RNG.normal(size=(6, COUNT)), np.arange(COUNT) * 60.0])
GAS_NAMES = ("Time", "Meth", "a", "Eth", "b", "c", "d")
MINIBOONE = RNG.normal(size=(COUNT, 4)) * 3 + 1
HEPMASS_NAMES = ("# label", "f0", "f1", "f2", "mass")


def gas() -> npt.NDArray[np.float64]:
    """Columns a and c tell the same, and so do b and -d, which is no correlation above .98."""
    a, b = RNG.normal(size=(2, COUNT))
    rest = RNG.normal(size=(3, COUNT))
    return np.column_stack([rest[0], rest[1], a, rest[2], b, a + 0.01 * b, -b])


def hepmass(mass: bool) -> npt.NDArray[np.float64]:
    """f1 has its smallest value six times, f2 its largest."""
    rows = RNG.normal(size=(2 * COUNT, 5 if mass else 4))
    rows[:, 0] = np.arange(2 * COUNT) % 2
    rows[1:13:2, 2] = -9.0
    rows[1:41:2, 3] = 9.0
    return rows


GAS, TRAIN, TEST = gas(), hepmass(False), hepmass(True)
BSDS300 = {
    part: RNG.normal(size=(n, 5)) for part, n in (("train", 9), ("validation", 4), ("test", 6))
}


def text(rows: npt.NDArray[np.float64]) -> bytes:
    names = ",".join(HEPMASS_NAMES[: rows.shape[1]])
    lines = "\n".join(",".join(map(repr, row)) for row in rows.tolist())
    return f"{names}\n{lines}\n".encode()


def npy(rows: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def hdf5() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for part, rows in BSDS300.items():
            file[part] = rows
    return stream.getvalue()


def members() -> dict[str, bytes]:
    return {
        "power/data.npy": npy(POWER),
        "gas/ethylene_CO.pickle": b"see pickled",
        "hepmass/1000_train.csv": text(TRAIN),
        "hepmass/1000_test.csv": text(TEST),
        "miniboone/data.npy": npy(MINIBOONE),
        "BSDS300/BSDS300.hdf5": hdf5(),
        "mnist/mnist.pkl.gz": b"not wanted",
    }


@pytest.fixture(autouse=True)
def pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of pandas have their own tests; here is one without pandas."""

    def read(path: Path) -> PickledFrame:
        assert path.read_bytes() == b"see pickled"
        return PickledFrame(GAS_NAMES, GAS)

    monkeypatch.setattr("flow_data.tabular.prepare.read_frame", read)


def tar(path: Path, content: dict[str, bytes], prefix: str = "data/") -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(f"{prefix}{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    asked: list[str] = []  # noqa: RUF012 (one record for the whole server)

    def do_GET(self) -> None:
        Quiet.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TableArchive]:
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "server"
    folder.mkdir()
    tar(folder / "data.tar.gz", members())
    content = (folder / "data.tar.gz").read_bytes()
    Quiet.asked.clear()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        checksum = Checksum("md5", hashlib.md5(content, usedforsecurity=False).hexdigest())
        address = f"http://127.0.0.1:{running.server_port}/data.tar.gz"
        yield TableArchive((address,), checksum, range(1, 2 * len(content)))
        running.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that preparing leaves, without a network."""
    folder = tmp_path / "root"
    for name, content in members().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    prepare_tables(folder)
    return folder


def load(name: str, root: Path) -> TableSplits:
    return load_published_table(name, root, verify="format")


def rows_of(parts: TableSplits) -> npt.NDArray[np.float64]:
    every = torch.cat([parts.train, parts.validation, parts.test])
    return parts.in_units(every).numpy()


def test_the_archive_is_fetched_once_and_only_what_is_wanted_is_taken_out(
    served: TableArchive, tmp_path: Path
) -> None:
    root = tmp_path / "new" / "root"
    files = prepare_tables(root, archive=served)
    assert all(file.is_file() for file in files)
    assert not (root / "mnist").exists()
    for name in PUBLISHED_TABLES:
        assert len(load(name, root).train) > 2
    assert prepare_tables(root, archive=served) == files
    assert Quiet.asked == ["/data.tar.gz"]
    assert [p.name for p in root.rglob(".*")] == []
    (root / "gas/ethylene_CO.npz").unlink()
    (root / "miniboone/data.npy").unlink()
    prepare_tables(root, ["gas", "miniboone"], archive=served)
    assert Quiet.asked == ["/data.tar.gz"]


def test_an_archive_of_other_content_is_refused(served: TableArchive, tmp_path: Path) -> None:
    other = TableArchive(served.urls, Checksum("md5", "0" * 32), served.size)
    with pytest.raises(DataError, match="content has md5"):
        prepare_tables(tmp_path / "root", archive=other)
    larger = TableArchive(served.urls, served.checksum, range(1, 100))
    with pytest.raises(DataError, match="expected 1 to 99 bytes, got more"):
        prepare_tables(tmp_path / "root", archive=larger)
    smaller = TableArchive(served.urls, served.checksum, range(10**7, 10**7 + 2))
    with pytest.raises(DataError, match="expected 10000000 to 10000001 bytes, got"):
        prepare_tables(tmp_path / "root", archive=smaller)
    assert list((tmp_path / "root").iterdir()) == []


def archived(path: Path) -> TableArchive:
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return TableArchive((), Checksum("md5", digest))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "root").mkdir()
    path = tmp_path / "root" / "data.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("data/miniboone/data.npy")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match="do not use this archive"):
        prepare_tables(tmp_path / "root", ["miniboone"], archive=archived(path))
    assert not (tmp_path / "root/miniboone/data.npy").exists()


@pytest.mark.parametrize("prefix", ["", "../data/", "/data/", "data/../data/"])
def test_members_of_other_names_go_nowhere(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "root").mkdir()
    path = tmp_path / "root" / "data.tar.gz"
    tar(path, members(), prefix)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"members data/miniboone/data\.npy, got none"):
        prepare_tables(tmp_path / "root", ["miniboone"], archive=archived(path))
    assert set(tmp_path.rglob("*")) == before


def test_a_cut_archive_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    path = tmp_path / "root" / "data.tar.gz"
    tar(path, {"miniboone/data.npy": os.urandom(100_000)})
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(DataError, match="a whole tar archive"):
        prepare_tables(tmp_path / "root", ["miniboone"], archive=archived(path))
    assert [p for p in (tmp_path / "root").rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize("name", list(PUBLISHED_TABLES))
def test_divisions_are_the_same_in_every_run(root: Path, name: str) -> None:
    np.random.seed(1)  # noqa: NPY002 (what the published code follows)
    torch.manual_seed(1)
    first = load(name, root)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    again = load(name, root)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    assert first.train.dtype == torch.float32
    assert len(first.columns) == first.train.shape[1]


@pytest.mark.parametrize("name", list(PUBLISHED_TABLES))
def test_other_counts_than_the_published_ones_are_refused(root: Path, name: str) -> None:
    table = PUBLISHED_TABLES[name]
    with pytest.raises(DataError, match=rf"expected {table.train:,} \+ .* got .*verify=\"format\""):
        load_published_table(name, root)
    with pytest.raises(DataError, match="have prepare_tables fetch"):
        load_published_table(name, root / "nowhere", verify="format")


@pytest.mark.parametrize("name", ["power", "gas", "miniboone"])
def test_published_counts_follow_from_the_rule(name: str) -> None:
    table = PUBLISHED_TABLES[name]
    total = table.train + table.validation + table.test
    parts = preprocessing.divided_from_the_end(np.zeros((total, 1)))
    assert [len(part) for part in parts] == [table.train, table.validation, table.test]
    tenth = preprocessing.last_tenth(np.zeros((315_123 + 35_013, 1)))
    assert [len(part) for part in tenth] == [315_123, 35_013]


def test_power_is_that_of_the_authors(root: Path) -> None:
    parts = load("power", root)
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [162, 18, 20]
    found = rows_of(parts)
    # Their shuffle, of numbers in place of rows.
    order = np.arange(COUNT)
    np.random.RandomState(42).shuffle(order)
    np.testing.assert_array_equal(np.floor(found[:, 0] + 1e-5), order)
    noise = found - POWER[order][:, [0, 2, 4, 5, 6, 7]]
    tops = np.array([0.001, 0.01, 1.0, 1.0, 1.0])
    assert (noise[:, :5] > -1e-4).all()
    assert (noise[:, :5] < tops + 1e-4).all()
    assert (noise[:, :5].max(0) > 0.9 * tops).all()
    np.testing.assert_allclose(noise[:, 5], 0, atol=1e-3)
    seen = torch.cat([parts.train, parts.validation]).double()
    torch.testing.assert_close(seen.mean(0), torch.zeros(6).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(6).double())


def test_gas_loses_the_first_of_columns_that_tell_the_same(root: Path) -> None:
    parts = load("gas", root)
    assert parts.columns == ("b", "c", "d")
    np.testing.assert_allclose(rows_of(parts), GAS[:, 4:], rtol=1e-5, atol=1e-6)
    every = torch.cat([parts.train, parts.validation, parts.test]).double()
    torch.testing.assert_close(every.std(0), torch.ones(3).double())


def test_hepmass_is_the_signal_without_features_of_a_frequent_smallest_value(root: Path) -> None:
    parts = load("hepmass", root)
    assert parts.columns == ("f0", "f2")
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [180, 20, 200]
    wanted = np.concatenate([TRAIN[1::2][:, [1, 3]], TEST[1::2][:, [1, 3]]])
    np.testing.assert_allclose(rows_of(parts), wanted, rtol=1e-5, atol=1e-6)
    seen = torch.cat([parts.train, parts.validation]).double()
    torch.testing.assert_close(seen.std(0), torch.ones(2).double())


def test_rows_of_hepmass_may_be_longer_or_shorter_than_their_names(root: Path) -> None:
    for rows in (np.hstack([TEST, TEST[:, :1]]), TEST[:, :-1]):
        names, _, numbers = text(TEST).partition(b"\n")
        lines = "\n".join(",".join(map(repr, row)) for row in rows.tolist())
        assert numbers
        (root / "hepmass/1000_test.csv").write_bytes(names + b"\n" + lines.encode())
        (root / "hepmass/1000_test.npz").unlink()
        prepare_tables(root, ["hepmass"])
        np.testing.assert_allclose(
            rows_of(load("hepmass", root))[200:], TEST[1::2][:, [1, 3]], rtol=1e-5, atol=1e-6
        )


def test_miniboone_is_divideddivided_from_the_end(root: Path) -> None:
    parts = load("miniboone", root)
    np.testing.assert_allclose(rows_of(parts), MINIBOONE, rtol=1e-5, atol=1e-5)
    assert len(parts.test) == 20
    mean = torch.from_numpy(MINIBOONE[:180].mean(0))
    torch.testing.assert_close(parts.mean, mean)


def test_bsds300_is_as_it_is(root: Path) -> None:
    parts = load("bsds300", root)
    for part, rows in BSDS300.items():
        np.testing.assert_array_equal(getattr(parts, part).numpy(), rows.astype(np.float32))
    assert parts.log_scale == 0


def test_spoilt_files_are_named(root: Path) -> None:
    np.save(root / "miniboone/data.npy", np.where(MINIBOONE > 3, np.nan, MINIBOONE))
    with pytest.raises(DataError, match=r"miniboone/data\.npy: expected finite rows"):
        load("miniboone", root)
    whole = (root / "gas/ethylene_CO.npz").read_bytes()
    for content in (b"", whole[:-100], whole.replace(b"columns.npy", b"colunns.npy")):
        (root / "gas/ethylene_CO.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"ethylene_CO\.npz: expected"):
            load("gas", root)
    for name, content, message in (
        ("hepmass/1000_train", b"a,b\n1,x\n", "rows of numbers under names"),
        ("BSDS300/BSDS300", b"nothing", "an HDF5 file with train"),
    ):
        raw = next(root.glob(f"{name}.[ch]*"))
        raw.write_bytes(content)
        (root / f"{name}.npz").unlink()
        with pytest.raises(DataError, match=message):
            prepare_tables(root, [name.partition("/")[0].lower()])
    with pytest.raises(ValueError, match="did you mean gas"):
        prepare_tables(root, ["gaz"])
    with pytest.raises(ValueError, match="did you mean power"):
        load_published_table("powr", root)


def test_without_h5py_there_is_one_clear_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "BSDS300/BSDS300.npz").unlink()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match="the package h5py, to convert HDF5 once, got none; pip"):
        prepare_tables(root, ["bsds300"])
