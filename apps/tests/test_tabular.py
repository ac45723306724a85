"""Densities of tables, from the command line to files with names of columns."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from flow_apps.config import apply_overrides
from flow_apps.errors import ConfigError
from flow_apps.experiments import EXPERIMENTS, find_preset
from flow_apps.experiments.tabular.build import build_parts
from flow_apps.experiments.tabular.config import (
    BUNDLED_DIMENSIONS,
    ENDINGS,
    PUBLISHED_DIMENSIONS,
    BlockOfTables,
    NetOfTables,
    TableConfig,
    TabularConfig,
)
from flow_apps.experiments.tabular.data import TableBatches, load_table
from flow_apps.experiments.tabular.model import build_flow
from flow_apps.experiments.tabular.presets import PRESETS
from flow_apps.experiments.tabular.tests import TabularTests
from flow_apps.figures import draw_histograms, draw_pairs
from flow_apps.training.reporting import told
from flow_core import Settings, jacobian
from flow_core.blocks import Implicit
from flow_core.maps import SandwichNet
from flow_data import (
    BUNDLED_TABLES,
    PUBLISHED_TABLES,
    TABLE_FILES,
    WHOLE,
    Share,
    load_bundled_table,
)
from typer.testing import Result

Cli = Callable[..., Result]

SMALL = ("--set", "blocks=2", "--set", "width=6", "--batch-size", 20, "--log-every", 1)
NAMES = ("height", "weight", "dose")
ROWS = np.random.default_rng(0).normal(size=(60, 3)) @ [[1, 0.5, 0], [0, 1, 3], [0, 0, 0.1]]


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    lines = [",".join(map(repr, row)) for row in ROWS.tolist()]
    (tmp_path / "people.csv").write_text("\n".join([",".join(NAMES), *lines]))
    return tmp_path / "people.csv"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_the_default_trains_and_tells_of_every_row(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = cli("tabular", *SMALL, "--iterations", 3, "--out", run)
    assert result.exit_code == 0, result.output
    found = read(run / "summary.json")
    assert found["table"] == "diabetes"
    assert found["rows"] == {"train": 266, "validation": 88, "test": 88}
    assert found["max_roundtrip_error"] < 1e-3
    assert found["log_det_standard_error"] == 0
    assert all(0 < bound < 1 for bound in found["lipschitz_bound"].values())
    line = re.search(
        r"test log-likelihood (-[\d.]+) ± ([\d.]+) nats, weights of step", result.output
    )
    assert line
    assert float(line[1]) == pytest.approx(-found["best_test_nats"], abs=1e-4)
    assert float(line[2]) == pytest.approx(found["best_standard_error"], abs=1e-4)
    for weights, name in (("last_", ""), ("best_", "best_")):
        values = np.load(run / "test" / f"{weights}log_likelihoods.npy")
        assert values.shape == (88,)
        assert -values.astype(np.float64).mean() == pytest.approx(found[f"{name}test_nats"])
    about = read(run / "test" / "about.json")
    assert tuple(about["columns"]) == load_table(TableConfig()).columns
    assert about["log_scale"] == pytest.approx(np.log(about["deviation"]).sum())
    for name in ("pairs_000003", "log_likelihoods_000003", "learning_curve"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 1000

    assert cli("evaluate", run).exit_code == 0
    evaluation = read(run / "evaluation" / "evaluation.json")
    assert evaluation["columns"] == about["columns"]
    assert evaluation["test_nats"] == found["test_nats"]
    assert cli("sample", run, "--count", 9).exit_code == 0
    (samples,) = (run / "samples").glob("*.npy")
    assert np.load(samples).shape == (9, 9)


@pytest.mark.parametrize("net", get_args(NetOfTables))
@pytest.mark.parametrize("block", get_args(BlockOfTables))
def test_every_block_of_every_net_trains(
    cli: Cli, tmp_path: Path, csv: Path, block: str, net: str
) -> None:
    run = tmp_path / "run"
    size = "growth=4" if net == "dense" else "width=6"
    options = ("--set", f"block={block}", "--set", f"net={net}", "--set", size, "--set", "blocks=2")
    short = ("--batch-size", 20, "--iterations", 2, "--out", run, "--set", f"data={csv}")
    result = cli("tabular", *options, *short)
    assert result.exit_code == 0, result.output
    found = read(run / "summary.json")
    assert found["max_roundtrip_error"] < 1e-3
    assert len(found["lipschitz_bound"]) == (4 if block == "implicit" else 2)
    assert all(0 < bound < 1 for bound in found["lipschitz_bound"].values())


def test_a_file_by_its_path(cli: Cli, tmp_path: Path, csv: Path) -> None:
    run = tmp_path / "run"
    options = (*SMALL, "--set", f"data={csv}", "--iterations", 2, "--out", run)
    result = cli("tabular", *options, "--set", 'left_out=["weight"]')
    assert result.exit_code == 0, result.output
    assert read(run / "config.json")["config"]["table"]["columns"] == ["height", "dose"]
    assert read(run / "test" / "about.json")["rows"]["test"] == 12
    csv.write_text(csv.read_text().replace("dose", "doze"))
    load_table.cache_clear()
    changed = cli("evaluate", run)
    assert changed.exit_code == 1
    assert "the columns height, dose, as config.json has them" in " ".join(changed.output.split())
    csv.write_text("height,colour\n1.0,red\n2.0,blue\n")
    refused = cli("tabular", *options[:-1], tmp_path / "other")
    assert refused.exit_code == 1
    assert "column 'colour' with 'red' in row 1; leave the column out" in refused.output
    assert not (tmp_path / "other").exists()


def test_published_tables_must_be_those(cli: Cli, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(100, 43))
    (tmp_path / "miniboone").mkdir()
    np.save(tmp_path / "miniboone" / "data.npy", rows)
    command = ("tabular", "miniboone-sandwich", *SMALL, "--data-root", tmp_path)
    short = ("--iterations", 1, "--out", tmp_path / "run")
    refused = cli(*command, *short)
    assert refused.exit_code == 1
    assert "expected 29,556 + 3,284 + 3,648 rows of 43 columns, got 81 + 9 + 10" in refused.output
    assert cli(*command, *short, "--set", "verify=format").exit_code == 0


def examined(config: TabularConfig) -> TabularTests:
    found = build_parts(config, build_flow(config), frozenset()).tests
    assert isinstance(found, TabularTests)
    return found


def config_of(**changes: object) -> TabularConfig:
    return apply_overrides(TabularConfig(), {"blocks": 2, "width": 6, **changes})


def test_log_likelihoods_are_those_of_dense_jacobians() -> None:
    for block in get_args(BlockOfTables):
        config = config_of(block=block, actnorm=False, gain=0.9)
        tests = examined(config)
        rows = tests.rows("validation")[:5]
        z = tests.model.bijection.transform(rows)
        dense = jacobian(tests.model.bijection, rows).double()
        wanted = -0.5 * (z.double().square().sum(1) + 9 * np.log(2 * np.pi))
        wanted += torch.linalg.svdvals(dense).log().sum(1)
        assert torch.linalg.svdvals(dense).max() > 1.2
        found = tests.log_prob(rows, "test").double()
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def test_beyond_64_columns_there_is_a_standard_error(tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.random.default_rng(2).normal(size=(100, 70)))
    config = config_of(data=str(tmp_path / "wide.npy"), gain=0.9, actnorm=False)
    columns = load_table(config.table).columns
    config = apply_overrides(config, {"columns": columns})
    tests = examined(config)
    tests.model.eval()
    with torch.no_grad():
        estimated = tests.audit()["log_det_standard_error"]
    assert isinstance(estimated, float)
    assert 1e-6 < estimated < 1


def test_rows_stay_in_their_parts_whatever_the_seed() -> None:
    first, other = (config_of(seed=seed).table for seed in (0, 1))
    assert torch.equal(load_table(first).test, load_table(other).test)
    load_table.cache_clear()
    torch.manual_seed(5)
    assert torch.equal(load_table(first).test, load_table(other).test)
    divided = load_table(config_of(division=1).table)
    assert not torch.equal(divided.test, load_table(first).test)


def test_batches_follow_from_seed_and_step_and_are_shared_out() -> None:
    config = config_of(batch_size=16)
    table = load_table(config.table)
    batches = TableBatches(table.train, config.training, noise=0.0)
    epoch = torch.cat([batches.batch(step, Share()).x for step in range(1, 17)])
    assert len({tuple(row) for row in epoch.tolist()}) == len(epoch) == 256
    known = {tuple(row) for row in table.train.tolist()}
    assert all(tuple(row) in known for row in epoch.tolist())
    noisy = TableBatches(table.train, config.training, noise=0.1)
    whole = noisy.batch(3, Share()).x
    assert torch.equal(whole, noisy.batch(3, Share()).x)
    spread = (whole - batches.batch(3, Share()).x).std()
    assert 0.08 < float(spread) < 0.12
    for k in range(2):
        assert torch.equal(noisy.batch(3, Share(k, 2)).x, whole[k::2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "diabetis"}, "did you mean diabetes"),
        ({"data": "rows.xlsx"}, r"a file that ends in \.csv, \.npy, \.parquet"),
        ({"data": "power", "left_out": ["time"]}, "power is used as published"),
        ({"validation_fraction": 0.7, "test_fraction": 0.3}, "two that leave some rows"),
        ({"table.noise": -1.0}, "noise: expected 0 or more"),
        ({"net": "dense", "gain": 0.5}, "gain: belongs to net=sandwich"),
        ({"net": "dense", "width": 8}, "width: a dense net has a growth"),
        ({"growth": 8}, "growth: belongs to net=dense"),
        ({"gain": 1.0}, "gain: expected between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides(TabularConfig(), changes)


def test_a_batch_beyond_the_rows_is_refused(cli: Cli, tmp_path: Path) -> None:
    result = cli("tabular", "wine-sandwich", "--batch-size", 200, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "108 samples and batch size 200; lower the batch size" in result.output


@pytest.mark.parametrize(
    "config",
    [preset.config for preset in PRESETS if preset.config.table.data in BUNDLED_TABLES],
    ids=lambda config: f"{config.table.data}-{config.block}-{config.net}",
)
def test_presets_of_bundled_tables_have_batches(config: TabularConfig) -> None:
    rows, training = load_table(config.table).train, config.training
    batch = TableBatches(rows, training, config.table.noise).batch(1, WHOLE)
    assert len(batch.x) == training.batch_size


def test_names_that_are_written_twice_agree() -> None:
    assert {n: t.dimensions for n, t in PUBLISHED_TABLES.items()} == PUBLISHED_DIMENSIONS
    assert tuple(BUNDLED_DIMENSIONS) == BUNDLED_TABLES
    for name, dimensions in BUNDLED_DIMENSIONS.items():
        assert load_bundled_table(name).values.shape[1] == dimensions
    assert set(ENDINGS) == set(TABLE_FILES)
    left = TableConfig(left_out=("age", "bp"))
    assert left.dimensions == load_table(left).train.shape[1] == 7


def preset(name: str) -> TabularConfig:
    config = find_preset(name)[1].config
    assert isinstance(config, TabularConfig)
    return config


@pytest.mark.parametrize("data", list(PUBLISHED_DIMENSIONS))
def test_flags_of_the_published_command_are_in_the_config(data: str) -> None:
    published = find_preset(f"{data}-implicit")[1].published
    flags = dict(re.findall(r"--(\S+) (\S+)", published))
    config, rows = preset(f"{data}-implicit"), PUBLISHED_TABLES[data].train
    training = config.training
    assert config.table.data == flags["data"] == data
    assert config.blocks == int(flags["nblocks"])
    assert config.contraction.coeff == float(flags["coeff"])
    assert config.activation == flags["act"]
    assert training.iterations == int(flags["nepochs"]) * -(-rows // training.batch_size)
    assert (config.block, config.net, config.actnorm) == ("implicit", "feedforward", False)
    assert (config.width, config.depth, training.batch_size) == (128, 4, 1000)
    assert (training.gradient_clip, training.ema_decay) == (1.0, 0.999)
    assert training.optimizer.options == {"betas": (0.9, 0.99)}
    assert config.estimator.train == "implicit-flow-tabular"


def test_every_table_has_every_kind_of_flow() -> None:
    names = [p.name for p in EXPERIMENTS["tabular"].presets]
    tables = (*BUNDLED_DIMENSIONS, *PUBLISHED_DIMENSIONS)
    kinds = ("implicit", "monotone", "sandwich", "residual")
    assert set(names) == {f"{table}-{kind}" for table in tables for kind in kinds}
    assert names[0] == "diabetes-sandwich"
    with torch.device("meta"):
        for name in names:
            flow = build_flow(preset(name))
            assert flow.event_shape == (preset(name).table.dimensions,)
            assert ("sandwich" in name) is (
                any(isinstance(m, SandwichNet) for m in flow.modules())
                and not any(isinstance(m, Implicit) for m in flow.modules())
            )


def test_pictures_of_one_column_and_of_many(tmp_path: Path) -> None:
    for width in (1, 2, 9):
        rows = torch.randn(30, width)
        columns = tuple(f"c{i}" for i in range(width))
        draw_pairs({"data": rows, "samples": rows + 1}, columns, tmp_path / f"{width}.png")
        draw_pairs({"samples": rows}, columns, tmp_path / f"one-{width}.png")
    draw_histograms({"a": torch.zeros(3)}, "same", tmp_path / "same.png")
    assert len(list(tmp_path.glob("*.png"))) == 7


def test_a_result_in_a_line() -> None:
    last = {"test_mse": 0.5, "standard_error": 0.1}
    assert told(last, "mse") == "test mse 0.5000 ± 0.1000"
    best = {"best_test_nats": 2.0, "best_standard_error": 0.1, "best_step": 7}
    wanted = "test log-likelihood -2.0000 ± 0.1000 nats, weights of step 7, best on validation"
    assert told(last | best, "nats") == wanted


def test_data_are_prepared_by_a_command(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "miniboone").mkdir()
    np.save(tmp_path / "miniboone" / "data.npy", ROWS)
    command = ("data", "prepare", "tabular", "--data-root", tmp_path)
    result = cli(*command, "--only", "miniboone")
    assert result.exit_code == 0, result.output
    assert result.output.split() == [str(tmp_path / "miniboone" / "data.npy")]
    for arguments, answer in (
        (("data", "prepare", "tabula"), "did you mean tabular"),
        (("data", "prepare", "cifar10", "--only", "gas"), "cifar10 is prepared as a whole"),
        ((*command, "--only", "gaz"), "did you mean gas"),
    ):
        refused = cli(*arguments)
        assert refused.exit_code == 1
        assert answer in refused.output


def test_settings_of_tests_are_exact_up_to_64_columns() -> None:
    using = examined(config_of()).using
    assert using.of("test") == using.of("validation") == Settings()
