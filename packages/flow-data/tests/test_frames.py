"""Pickled pandas tables: every form of the years is read, and nothing in any of them is run."""

import io
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from flow_data import DataError
from flow_data.tabular.frames import read_frame

NUMBERS = np.array([[1.5, 2.0, -3.0, 7.0], [0.25, 1e-9, 4.0, 8.0], [9.0, -1.0, 5.0, -6.0]])
NAMES = ("Time", "Meth", "CO", "R1")


class Fake:
    """Classes and functions where pandas has them, which pickle as those of pandas do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def place(self, module: str, name: str, thing: Any) -> Any:
        thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
        words = module.split(".")
        for count in range(1, len(words) + 1):
            part = ".".join(words[:count])
            if part not in sys.modules:
                self.monkeypatch.setitem(sys.modules, part, ModuleType(part))
        self.monkeypatch.setattr(sys.modules[module], name, thing, raising=False)
        return thing

    def kind(self, module: str, name: str) -> Any:
        return self.place(module, name, type(name, (), {}))

    def function(self, module: str, name: str) -> Any:
        def function(*arguments: Any) -> Any:
            return arguments

        return self.place(module, name, function)


def called(kind: Any, function: Any, *arguments: Any) -> Any:
    """An instance of a class that pickles as a call of a function."""

    def reduce(_: Any) -> Any:
        return function, arguments

    kind.__reduce__ = reduce
    return kind()


def stateful(kind: Any, state: object) -> Any:
    def getstate(_: Any) -> object:
        return state

    kind.__getstate__ = getstate
    return kind()


def index(fake: Fake, module: str, name: str, make: Any, **attributes: Any) -> Any:
    kind = fake.kind(module, name)
    return called(kind, make, kind, {**attributes, "name": None})


def old(fake: Fake, place: str = "pandas.core.internals", base: str = "pandas.indexes") -> Any:
    """As pandas 0.14 to 1.2: a manager with a state of four, and `_data`."""
    make = fake.function(f"{base}.base", "_new_Index")
    names = np.array(NAMES, dtype=object)
    columns = index(fake, f"{base}.base", "Index", make, data=names)
    rows = index(fake, f"{base}.range", "RangeIndex", make, start=0, stop=3, step=1)
    blocks: list[dict[str, Any]] = [
        {"values": NUMBERS[:, [0, 2]].T.copy("F"), "mgr_locs": slice(0, 4, 2)},
        {"values": NUMBERS[:, [3, 1]].T.astype(">f4"), "mgr_locs": np.array([3, 1])},
    ]
    held = {"0.14.1": {"axes": [columns, rows], "blocks": blocks}}
    state = ([columns, rows], [b["values"] for b in blocks], [columns, columns], held)
    manager = stateful(fake.kind(place, "BlockManager"), state)
    content = {"_data": manager, "_typ": "dataframe", "_metadata": []}
    return stateful(fake.kind("pandas.core.frame", "DataFrame"), content)


def new(fake: Fake) -> Any:
    """As pandas from 1.3 on: blocks are calls, and `_mgr`."""
    base = "pandas.core.indexes"
    make = fake.function(f"{base}.base", "_new_Index")
    names = np.array(NAMES, dtype=object)
    columns = index(fake, f"{base}.base", "Index", make, data=names)
    rows = index(fake, f"{base}.numeric", "Int64Index", make, data=np.arange(3))
    block = fake.function("pandas._libs.internals", "_unpickle_block")
    whole = called(fake.kind("x", "Block"), block, NUMBERS.T, slice(0, 4, 1), 2)
    kind = fake.kind("pandas.core.internals.managers", "BlockManager")
    manager = called(kind, kind, (whole,), [columns, rows])
    content = {"_mgr": manager, "_typ": "dataframe", "_metadata": [], "attrs": {}, "_flags": {}}
    return stateful(fake.kind("pandas.core.frame", "DataFrame"), content)


class Python2(pickle.Pickler):
    """Writes bytes of arrays as text, which is what reading a pickle of Python 2 makes of them."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray) or obj.dtype == object:
            return NotImplemented
        reduced: Any = obj.__reduce__()
        function, arguments, state = reduced[:3]
        return function, (*arguments[:2], "b"), (*state[:4], state[4].decode("latin1"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(monkeypatch)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("form", ["0.19", "0.25", "1.5"])
def test_tables_of_all_years_are_read(fake: Fake, tmp_path: Path, form: str, protocol: int) -> None:
    made = {
        "0.19": lambda: old(fake),
        "0.25": lambda: old(fake, "pandas.core.internals.managers", "pandas.core.indexes"),
        "1.5": lambda: new(fake),
    }[form]()
    path = tmp_path / "table.pickle"
    path.write_bytes(pickle.dumps(made, protocol=protocol))
    found = read_frame(path)
    assert found.columns == NAMES
    np.testing.assert_allclose(found.values, NUMBERS, rtol=1e-7)
    assert found.values.dtype == np.float64


def test_a_table_of_python_2_is_read(fake: Fake, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Python2(stream, protocol=2).dump(old(fake))
    (tmp_path / "table.pickle").write_bytes(stream.getvalue())
    np.testing.assert_allclose(read_frame(tmp_path / "table.pickle").values, NUMBERS, rtol=1e-7)


class Attack:
    """A pickle of it calls a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_is_run(fake: Fake, tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    attacks = [
        Attack(os.mkdir, str(trace)),
        Attack(eval, f"open({str(trace)!r}, 'w')"),
        Attack(getattr, "text", "encode"),
        Attack(np.load, str(trace)),
        Attack(fake.function("pandas.io.common", "read_pickle"), str(trace)),
        {"DataFrame": Attack(os.mkdir, str(trace))},
    ]
    for attack in attacks:
        path = tmp_path / "attack.pickle"
        path.write_bytes(pickle.dumps(attack, protocol=protocol))
        with pytest.raises(DataError, match="nothing in it was run"):
            read_frame(path)
        assert not trace.exists()


def test_what_is_no_table_of_numbers_is_refused(fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "table.pickle"
    for thing in (3, {"a": 1}, np.arange(3.0), np.array(["a"]), np.zeros(2, dtype="f4,f4")):
        path.write_bytes(pickle.dumps(thing, protocol=2))
        with pytest.raises(DataError, match="a pickled pandas table of numbers"):
            read_frame(path)
    whole = pickle.dumps(new(fake), protocol=2)
    for cut in (0, 1, len(whole) // 3, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="spoilt"):
            read_frame(path)
    with pytest.raises(DataError, match="No such file"):
        read_frame(tmp_path / "nothing.pickle")


def test_a_pickle_leaves_nothing_behind(fake: Fake, tmp_path: Path) -> None:
    """One that sets attributes of what it names changes nothing for the next one."""
    path = tmp_path / "table.pickle"
    for name in (b"pandas.core.frame\nDataFrame", b"pandas.core.indexes.base\n_new_Index"):
        path.write_bytes(b"\x80\x02c" + name + b"\nN}X\x08\x00\x00\x00functionK\x01s\x86b.")
        with pytest.raises(DataError):
            read_frame(path)
    path.write_bytes(pickle.dumps(new(fake), protocol=2))
    np.testing.assert_array_equal(read_frame(path).values, NUMBERS)
