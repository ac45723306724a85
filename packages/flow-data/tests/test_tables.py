"""Tables in files and of scikit-learn: names kept; what has no density refused, with its place."""

import builtins
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from flow_data import (
    BUNDLED_TABLES,
    DataError,
    Table,
    load_bundled_table,
    read_table,
    split_table,
)
from pyarrow import parquet

ROWS = np.random.default_rng(0).normal(size=(40, 3)) * [1.0, 20.0, 0.1] + [0.0, 5.0, -3.0]
NAMES = ("height", "weight", "dose, daily")


def text(rows: Any = ROWS, names: tuple[str, ...] | None = NAMES, separator: str = ",") -> str:
    lines = [separator.join(map(repr, row)) for row in np.asarray(rows).tolist()]
    head = [] if names is None else [separator.join(f'"{name}"' for name in names)]
    return "\n".join([*head, *lines]) + "\n"


def write_csv(path: Path) -> None:
    path.write_text(text())


def write_records(path: Path) -> None:
    kind = [(name, np.float32 if name == "height" else np.float64) for name in NAMES]
    np.save(path, np.array([tuple(row) for row in ROWS], dtype=kind))


def write_parquet(path: Path) -> None:
    parquet.write_table(pa.table(dict(zip(NAMES, ROWS.T, strict=True))), path)


@pytest.mark.parametrize(
    ("ending", "write"), [("csv", write_csv), ("npy", write_records), ("parquet", write_parquet)]
)
def test_files_keep_values_and_names(
    tmp_path: Path, ending: str, write: Callable[[Path], None]
) -> None:
    path = tmp_path / f"table.{ending}"
    write(path)
    table = read_table(path)
    assert table.columns == NAMES
    assert table.values.dtype == torch.float64
    precision = 1e-6 if ending == "npy" else 0
    np.testing.assert_allclose(table.values.numpy(), ROWS, rtol=precision)
    fewer = read_table(path, left_out=["weight"])
    assert fewer.columns == ("height", "dose, daily")
    torch.testing.assert_close(fewer.values, table.values[:, [0, 2]], rtol=0, atol=0)
    with pytest.raises(DataError, match="columns among height, weight"):
        read_table(path, left_out=["wieght"])
    with pytest.raises(DataError, match="a column at least"):
        read_table(path, left_out=NAMES)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("names", [NAMES, None], ids=["names", "no names"])
def test_names_in_text_are_optional(
    tmp_path: Path, separator: str, names: tuple[str, ...] | None
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n" + text(names=names, separator=separator).replace("\n", "\n\n", 2))
    table = read_table(path)
    assert table.columns == (names or ("x1", "x2", "x3"))
    np.testing.assert_array_equal(table.values.numpy(), ROWS)


def test_whether_there_are_names_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "years.csv"
    path.write_text(text(names=("1990", "1991", "1992")))
    assert read_table(path).columns == ("x1", "x2", "x3")
    assert len(read_table(path).values) == 41
    named = read_table(path, header=True)
    assert named.columns == ("1990", "1991", "1992")
    np.testing.assert_array_equal(named.values.numpy(), ROWS)


def test_a_plain_array_has_numbered_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", (ROWS * 100).astype(np.int32))
    assert read_table(tmp_path / "rows.npy").columns == ("x1", "x2", "x3")


HOLES = [text().replace(repr(ROWS[6, 1].item()), hole) for hole in ("", "NA", "nan", "?", "inf")]


@pytest.mark.parametrize("content", HOLES, ids=["empty", "NA", "nan", "?", "inf"])
def test_missing_values_are_refused_with_their_place(tmp_path: Path, content: str) -> None:
    path = tmp_path / "holes.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"1 missing or infinite: row 7 column 'weight'; drop"):
        read_table(path)


@pytest.mark.parametrize("hole", [np.nan, None], ids=["nan", "null"])
def test_missing_values_of_parquet_too(tmp_path: Path, hole: float | None) -> None:
    values: list[float | None] = [*ROWS[:, 0].tolist()]
    values[3] = values[9] = hole
    parquet.write_table(pa.table({"a": ROWS[:, 1], "b": values}), tmp_path / "holes.parquet")
    with pytest.raises(DataError, match="2 missing or infinite: row 4 column 'b', row 10 column"):
        read_table(tmp_path / "holes.parquet")


def test_many_missing_values_are_counted(tmp_path: Path) -> None:
    np.save(tmp_path / "holes.npy", np.where(ROWS > 0, np.nan, ROWS))
    with pytest.raises(DataError, match=rf"{(ROWS > 0).sum()} missing or infinite: row .*, …;"):
        read_table(tmp_path / "holes.npy")


def _words() -> dict[str, Any]:
    return {"a": ROWS[:, 0].tolist(), "kind": ["red", "blue"] * 20}


@pytest.mark.parametrize("ending", ["csv", "parquet", "npy"])
def test_columns_of_words_are_refused_with_advice(tmp_path: Path, ending: str) -> None:
    path, words = tmp_path / f"words.{ending}", _words()
    if ending == "csv":
        lines = zip(*words.values(), strict=True)
        path.write_text("a,kind\n" + "".join(f"{a},{kind}\n" for a, kind in lines))
    elif ending == "parquet":
        parquet.write_table(pa.table(words), path)
    else:
        rows = list(zip(*words.values(), strict=True))
        np.save(path, np.array(rows, dtype=[("a", "f8"), ("kind", "U4")]))
    with pytest.raises(DataError, match=r"column 'kind' with .*; leave the column out, train on"):
        read_table(path)
    assert read_table(path, left_out=["kind"]).columns == ("a",)


def test_columns_without_a_density_are_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "flat.csv"
    flat = np.column_stack([ROWS[:, 0], np.ones(40), ROWS[:, 1] > 5, np.zeros(40)])
    path.write_text(text(flat, names=("a", "one", "two", "nought")))
    with pytest.raises(DataError, match=r"constant: 'one', 'nought'; leave them out, for"):
        read_table(path)
    with pytest.raises(DataError, match=r"categorical, with two values: 'two'; leave it out"):
        read_table(path, left_out=["one", "nought"])
    assert read_table(path, left_out=["one", "two", "nought"]).columns == ("a",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "an empty file"),
        ("a.csv", b"a,b\n", "expected rows of numbers, got none"),
        ("a.csv", b"a,b\n1,2\n3,4,5\n", "2 fields in every row, got 3 in row 2"),
        ("a.csv", b"a,a\n1,2\n", "a name of its own for every column, got a"),
        ("a.csv", b"a,b\n1,2\n3,\xff\n", "text in UTF-8"),
        ("a.csv", b"a,b\n1,2\n", "two rows at least, got 1"),
        ("a.npy", b"a,b\n1,2\n", "a .npy file"),
        ("a.parquet", b"a,b\n1,2\n", "a Parquet file"),
        ("a.xlsx", b"a,b\n1,2\n", "a file that ends in .csv, .npy, .parquet"),
    ],
)
def test_files_of_another_form(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read_table(tmp_path / name)


def test_arrays_of_another_form(tmp_path: Path) -> None:
    for name, array in (("line", ROWS[:, 0]), ("complex", ROWS * 1j), ("cube", ROWS[None])):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(DataError, match=r"two dimensions|complex128"):
            read_table(tmp_path / f"{name}.npy")
    np.save(tmp_path / "objects.npy", np.array([[1, "a"]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a \.npy file"):
        read_table(tmp_path / "objects.npy")
    np.savez(tmp_path / "zip.npz", rows=ROWS)
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    with pytest.raises(DataError, match="save one array alone"):
        read_table(tmp_path / "zip.npy")


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.parquet"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_table(tmp_path / name)


def test_without_pyarrow_there_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "table.parquet")
    really = builtins.__import__

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return really(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DataError, match="the package pyarrow, to read Parquet, got none; pip"):
        read_table(tmp_path / "table.parquet")


@pytest.mark.parametrize(
    ("name", "shape"), [("diabetes", (442, 9)), ("breast_cancer", (569, 30)), ("wine", (178, 13))]
)
def test_tables_of_scikit_learn(name: Any, shape: tuple[int, int]) -> None:
    table = load_bundled_table(name)
    assert table.values.shape == shape
    assert "sex" not in table.columns
    assert len(set(BUNDLED_TABLES)) == 3
    with pytest.raises(ValueError, match="did you mean wine"):
        load_bundled_table("wines")


def table(rows: int = 50) -> Table:
    values = torch.arange(2.0 * rows, dtype=torch.float64).reshape(rows, 2)
    return Table("counted", ("even", "odd"), values)


def test_a_division_holds_every_row_once_and_standardises_by_what_is_trained_on() -> None:
    parts = split_table(table(), validation=0.1, test=0.3)
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [30, 5, 15]
    found = torch.cat([parts.in_units(p) for p in (parts.train, parts.validation, parts.test)])
    order = found[:, 0].argsort()
    torch.testing.assert_close(found[order], table().values, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(parts.train.mean(0), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(parts.train.std(0, correction=0), torch.ones(2))
    assert abs(float(parts.test.mean())) > 1e-3
    assert parts.log_scale == pytest.approx(float(parts.deviation.log().sum()))


def test_a_division_follows_from_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = split_table(table())
    torch.manual_seed(2)
    again, other = split_table(table()), split_table(table(), seed=1)
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.in_units(first.test), other.in_units(other.test))


def test_divisions_that_cannot_be() -> None:
    with pytest.raises(DataError, match="two rows at least in each part"):
        split_table(table(9))
    values = torch.zeros(50, 2, dtype=torch.float64)
    values[:, 0] = torch.arange(50)
    values[int(torch.nonzero(table().values[:, 0] == 0)[0]), 1] = 0.5
    with pytest.raises(DataError, match="vary in the training rows, got odd"):
        split_table(Table("flat", ("even", "odd"), torch.where(values == 0.5, 0.0, values)))
    with pytest.raises(ValueError, match="a name of its own"):
        Table("twice", ("a", "a"), values)
