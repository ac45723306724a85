"""Two processes train, test and load as one."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.errors import ConfigError
from flow_apps.training import Ranks, RunFolder, Workers, load_checkpoint
from flow_data import Share, sample_toy
from torch import Tensor

Cli = Callable[..., Any]
Child = Callable[..., int]

TOY = (
    "2spirals-monotone",
    *("--batch-size", 20, "--set", "blocks=2", "--set", "growth=4", "--test-size", 50),
    *("--set", "compile=false", "--iterations", 6),
)
# Log-determinants are exact: nothing is drawn but the noise, which goes with the samples.
DIGITS = (
    *("--batch-size", 8, "--set", "scales=[1,1]", "--set", "growth=4", "--set", "depth=1"),
    *("--set", "dense_blocks=1", "--set", "dense_growth=4", "--test-draws", 2, "--test-size", 30),
    *("--set", "test_batch_size=7", "--set", "test_power_iterations=5", "--iterations", 3),
    # Adam would make differences of the size of its steps out of rounding where gradients vanish.
    *("--set", "optimizer.name=sgd", "--lr", 0.05, "--set", "estimator.train=exact"),
    *("--set", "augment=mnist", "--set", "validation_size=20", "--set", "evaluate_every=1"),
)

CLASSES = (
    *("--batch-size", 8, "--set", "growth=4", "--set", "depth=1", "--set", "heads.channels=6"),
    *("--set", "test_batch_size=7", "--set", "test_power_iterations=5", "--iterations", 3),
    *("--set", "optimizer.name=sgd", "--lr", 0.05, "--set", "augment=crop", "--test-size", 30),
    *("--set", "validation_size=20", "--set", "evaluate_every=1"),
)


# Where two singular values lie close together, rounding turns the vectors of either far. Weights
# feel that little: a learning rate that is wrong by 2 % makes differences of 5e-5 in them.
SINGULAR_VECTORS = 1e-3
UNITS = {"toy2d": "nats", "image": "bits_per_dim", "classify": "cross_entropy"}


def together(in_child: Child, *arguments: object) -> list[int]:
    """Exit codes of a command line in two processes that work together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    children = [
        in_child(
            *arguments,
            **{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def figures(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def weights(folder: Path) -> dict[str, Tensor]:
    state = load_checkpoint(RunFolder.open(folder).checkpoints.newest())
    found: dict[str, Tensor] = state["loss"]
    return found


def evaluations(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] != "train"]


@pytest.mark.parametrize(
    ("experiment", "options"), [("toy2d", TOY), ("image", DIGITS), ("classify", CLASSES)]
)
def test_training_and_tests_are_those_of_one(
    cli: Cli, in_child: Child, tmp_path: Path, experiment: str, options: Any
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    unit = UNITS[experiment]
    assert cli(experiment, *options, "--out", one).exit_code == 0
    assert together(in_child, experiment, *options, "--out", two) == [0, 0]
    expected = weights(one)
    for name, value in weights(two).items():
        atol = SINGULAR_VECTORS if name.endswith((".v", ".direction")) else 2e-6
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=atol, msg=name)
    for first, second in zip(evaluations(one), evaluations(two), strict=True):
        assert first[unit] == pytest.approx(second[unit], abs=1e-4)
    keys = (f"test_{unit}", "standard_error", f"best_test_{unit}")
    for key in keys:
        found, wanted = figures(two, "summary.json")[key], figures(one, "summary.json")[key]
        assert found == pytest.approx(wanted, abs=1e-4)


GAN = (
    *("digits-flowgan-hybrid", "--batch-size", 8, "--iterations", 3, "--test-size", 30),
    *("--set", "block_size=1", "--set", "coupling_width=4", "--set", "discriminator.width=4"),
    *("--set", "optimizer.name=sgd", "--lr", 1e-3, "--set", "stability.jacobians=1"),
    *("--set", "evaluate_every=1", "--set", "stability.every=3", "--set", "samples=30"),
    *("--set", "validation_size=20", "--set", "test_batch_size=7", "--set", "weights.entropy=1e-3"),
    "--set",
    'further_optimizers=[{"name": "sgd", "learning_rate": 0.05, "turn": "discriminator",'
    ' "parameters": ["discriminator.*"]}]',
)


def test_generator_and_discriminator_are_those_of_one_process(
    cli: Cli, in_child: Child, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = cli("flowgan", *GAN, "--out", one)
    assert alone.exit_code == 0, alone.output
    assert together(in_child, "flowgan", *GAN, "--out", two) == [0, 0]
    expected = weights(one)
    for name, value in weights(two).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    for first, second in zip(evaluations(one), evaluations(two), strict=True):
        assert first.keys() == second.keys()
        if first["split"] == "validation":
            assert first["bits_per_dim"] == pytest.approx(second["bits_per_dim"], abs=1e-4)


@pytest.mark.parametrize(("experiment", "options"), [("toy2d", TOY), ("image", DIGITS)])
def test_an_evaluation_is_that_of_one_process_to_the_last_bit(
    cli: Cli, in_child: Child, tmp_path: Path, experiment: str, options: Any
) -> None:
    run = tmp_path / "run"
    assert cli(experiment, *options, "--out", run).exit_code == 0
    assert cli("evaluate", run).exit_code == 0
    one = figures(run / "evaluation", "evaluation.json")
    values = (run / "evaluation" / "log_likelihoods.npy").read_bytes()
    assert together(in_child, "evaluate", run) == [0, 0]
    assert figures(run / "evaluation", "evaluation.json") == one
    assert (run / "evaluation" / "log_likelihoods.npy").read_bytes() == values


def test_both_go_on_from_the_step_that_the_first_chooses(
    cli: Cli, in_child: Child, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert together(in_child, "toy2d", *TOY, "--out", run) == [0, 0]
    assert together(in_child, "toy2d", "--resume", "--iterations", 9, "--out", run) == [0, 0]
    assert cli("toy2d", *TOY, "--iterations", 9, "--out", whole).exit_code == 0
    expected = weights(whole)
    for name, value in weights(run).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_test_that_fails_on_one_process_ends_both(
    cli: Cli, in_child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert cli("toy2d", *TOY, "--out", run).exit_code == 0

    def fails_on_second(*_: object, **__: object) -> Tensor:
        if os.environ.get("RANK") == "1":
            raise MemoryError("no memory on the second")
        return torch.zeros(25)

    monkeypatch.setattr("flow_core.distributions.Flow.log_prob", fails_on_second)
    monkeypatch.setattr("flow_apps.experiments.toy2d.tests._AT_A_TIME", 25)
    assert together(in_child, "evaluate", run) == [1, 1]
    messages = sorted(path.read_text() for path in tmp_path.glob("child-*.txt"))
    assert any("test: another process failed" in message for message in messages)
    assert any("no memory on the second" in message for message in messages)


_SECOND_TURN = json.dumps(
    [{"name": "sgd", "parameters": ["model.bijection.*concat"], "turn": "second"}]
)


@pytest.mark.parametrize(
    "choice",
    [
        ("--set", "on_failure=skip"),
        ("--set", "on_failure=skip", "--set", f"further_optimizers={_SECOND_TURN}"),
        ("--set", "on_failure=restore"),
    ],
    ids=["skip", "two turns", "restore"],
)
def test_a_step_that_fails_on_one_process_is_taken_back_on_both(
    cli: Cli,
    in_child: Child,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    choice: tuple[str, ...],
) -> None:
    calls = [0]

    def poisoned(*arguments: Any, **options: Any) -> Tensor:
        points = sample_toy(*arguments, **options)
        calls[0] += 1
        if calls[0] in {4, 6}:  # the first call is for initialisation
            points[7] = float("nan")  # the second process has the odd ones
        return points

    monkeypatch.setattr("flow_apps.experiments.toy2d.data.sample_toy", poisoned)
    one, two = tmp_path / "one", tmp_path / "two"
    options = (*TOY, *choice, "--set", "evaluate_every=2")
    assert together(in_child, "toy2d", *options, "--out", two) == [0, 0]
    alone = cli("toy2d", *options, "--out", one)
    assert alone.exit_code == 0, alone.output
    expected = weights(one)
    for name, value in weights(two).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)
    found, wanted = (figures(run, "summary.json")["failures"] for run in (two, one))
    assert [f["step"] for f in found] == [f["step"] for f in wanted] == [3, 5]
    assert [f["went_back_to"] for f in found] == [f["went_back_to"] for f in wanted]
    assert (
        "samples [3]; clean the data (sample i of process 1 is number 1 + 2·i"
        in found[0]["problem"]
    )


def test_a_batch_that_does_not_divide_is_refused(in_child: Child, tmp_path: Path) -> None:
    codes = together(in_child, "toy2d", *TOY, "--batch-size", 21, "--out", tmp_path / "run")
    assert codes == [1, 1]
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="multiple of the 2 processes, got 21"):
        Ranks(0, 2, torch.device("cpu")).share(21)


def test_jobs_draw_the_same_numbers_whoever_does_them() -> None:
    workers = Workers(Ranks(0, 1, torch.device("cpu")), (3, "test"))
    drawn = workers.each("jobs", range(4), lambda _: torch.rand(2)).reshape(4, 2)
    assert len({tuple(row) for row in drawn.tolist()}) == 4
    halves = [
        [
            Workers(Ranks(0, 1, torch.device("cpu")), (3, "test")).each(
                "jobs", range(4), lambda _: torch.rand(2)
            )[2 * job : 2 * job + 2]
            for job in range(rank, 4, 2)
        ]
        for rank in range(2)
    ]
    assert torch.equal(torch.stack(halves[0]), drawn[::2])
    assert torch.equal(torch.stack(halves[1]), drawn[1::2])


def test_shares_are_a_partition_of_the_batch() -> None:
    whole = torch.arange(12)
    parts = [Share(index, 3).of(whole) for index in range(3)]
    assert torch.equal(torch.stack(parts, 1).flatten(), whole)
    with pytest.raises(ValueError, match="a share from 0 to 2, got 3"):
        Share(3, 3)
