"""The network that judges samples of digits: published size and recipe, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.config import apply_overrides
from flow_apps.errors import ConfigError
from flow_apps.experiments import find_preset
from flow_apps.experiments.classify.config import ClassifyConfig
from flow_apps.experiments.classify.model import build_model
from flow_apps.parts.digit_classifier import DigitClassifier

Cli = Callable[..., Any]


def test_it_has_the_published_parameters_and_recipe() -> None:
    config: ClassifyConfig = find_preset("mnist-judge")[1].config
    assert sum(p.numel() for p in build_model(config).parameters()) == 1_199_882
    optimizer, steps = config.training.optimizer, config.training.iterations
    rates = [optimizer.learning_rate_at(1 + k * steps // 14, steps) for k in range(14)]
    assert rates == pytest.approx([0.7**k for k in range(14)])
    last = [optimizer.learning_rate_at((k + 1) * steps // 14, steps) for k in range(14)]
    assert last == rates


def test_it_standardises_and_drops_nothing_in_tests() -> None:
    model = DigitClassifier((1, 8, 8), 10, mean=(0.25,), std=(0.5,)).eval()
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(model(x), model.layers((x - 0.25) / 0.5))
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"network": "cnn"}, "block: expected plain of network=cnn"),
        ({"network": "cnn", "block": "plain", "growth": 4}, "growth: has no effect"),
        ({"network": "cnn", "block": "plain", "contraction.coeff": 0.5}, "has no effect"),
        ({"network": "cnn", "block": "plain", "memory": "reversible"}, "a cnn is no bijection"),
    ],
)
def test_what_it_has_not_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        apply_overrides(ClassifyConfig(), changes)


def test_images_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="network: expected images of 6x6 or more"):
        DigitClassifier((1, 5, 8), 10, mean=(0.0,), std=(1.0,))


@pytest.mark.usefixtures("few_digits")
def test_it_is_trained_and_evaluated(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    quick = ("--batch-size", 16, "--set", "evaluate_every=15", "--test-size", 10)
    done = cli("classify", "digits-judge", *quick, "--iterations", 30, "--out", run)
    assert done.exit_code == 0, done.output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.3
    assert cli("evaluate", run).exit_code == 0
