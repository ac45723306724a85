"""What training keeps of a pass changes its memory and not its weights."""

from typing import Any

import pytest
import torch
from flow_apps.config import apply_overrides
from flow_apps.config.run import RunConfig
from flow_apps.errors import ConfigError
from flow_apps.experiments.classify import build as classify
from flow_apps.experiments.classify.config import ClassifyConfig
from flow_apps.experiments.flow2d import build as flow2d
from flow_apps.experiments.flow2d.config import Flow2dConfig
from flow_apps.experiments.glow import build as glow
from flow_apps.experiments.glow.config import GlowConfig
from flow_apps.experiments.image import build as image
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.experiments.inn_classify import build as inn_classify
from flow_apps.experiments.inn_classify.config import InnClassifyConfig
from flow_apps.experiments.regression2d import build as regression2d
from flow_apps.experiments.regression2d.config import Regression2dConfig
from flow_apps.experiments.tabular import build as tabular
from flow_apps.experiments.tabular.config import TabularConfig
from flow_apps.parts.settings import kept
from flow_apps.training import Builders
from flow_core import Checkpointed, Reversible
from flow_data import Share
from torch import Tensor

POLICIES: dict[str, dict[str, object]] = {
    "checkpointed": {"memory": "checkpointed", "memory_layers": 2},
    "reversible": {"memory": "reversible"},
}
_SMALL: dict[str, object] = {"training.batch_size": 4}
_BLOCKS: dict[str, object] = {**_SMALL, "growth": 4, "depth": 1}
RUNS: dict[str, tuple[Builders[Any, Any], RunConfig, dict[str, object]]] = {
    "tabular": (tabular.BUILDERS, TabularConfig(), {**_SMALL, "width": 6}),
    "coupling": (
        image.BUILDERS,
        ImageConfig(),
        {**_SMALL, "block": "coupling", "width": 4, "dense_blocks": 0},
    ),
    "hybrid": (
        image.BUILDERS,
        ImageConfig(),
        {**_BLOCKS, "scales": [1, 1], "dense_blocks": 0, "task": "hybrid"},
    ),
    "classify": (classify.BUILDERS, ClassifyConfig(), _BLOCKS),
    "inn-classify": (
        inn_classify.BUILDERS,
        InnClassifyConfig(),
        {**_SMALL, "data": "digits", "levels": 2, "depth": 2, "width": 4},
    ),
    "penalties": (
        inn_classify.BUILDERS,
        InnClassifyConfig(),
        {
            **_SMALL,
            **{"data": "digits", "levels": 2, "depth": 1, "width": 4, "learn_top": True},
            **{f"regularizers.{name}": 1e-2 for name in ("density", "fd_forward", "fd_inverse")},
            "regularizers.jacobian": 1e-2,
        },
    ),
    "glow": (
        glow.BUILDERS,
        GlowConfig(),
        {**_SMALL, "data": "digits", "coupling_width": 4, "mixing": "conv1x1", "block_size": 2},
    ),
    "flow2d": (flow2d.BUILDERS, Flow2dConfig(), {**_SMALL, "blocks": 2, "width": 4}),
    "regression2d": (regression2d.BUILDERS, Regression2dConfig(), {}),
    "self-normalizing": (
        glow.BUILDERS,
        GlowConfig(),
        {**_SMALL, "data": "digits", "coupling_width": 4, "linear": "self-normalizing"},
    ),
}


def weights_after(
    builders: Builders[Any, Any], config: RunConfig, overrides: dict[str, object]
) -> list[Tensor]:
    """Weights after three steps of plain gradients."""
    config = builders.resolve(apply_overrides(config, overrides))
    model = builders.model(config)
    upkeep, parts = builders.upkeep(config, model), builders.parts(config, model, frozenset())
    parts.loss.initialize(parts.data.batch(1, Share(0, 1)))
    for step in range(1, 4):
        torch.manual_seed(step)
        model.train().zero_grad()
        loss, _ = parts.loss(parts.data.batch(step, Share(0, 1)))
        torch.autograd.backward(loss)
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0 if p.grad is None else 1e-3 * p.grad)
        upkeep.after_optimizer_step(step)
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize(
    ("name", "policy"), [("glow", "checkpointed"), *((name, "reversible") for name in RUNS)]
)
def test_three_steps_end_in_the_same_weights(name: str, policy: str) -> None:
    builders, config, overrides = RUNS[name]
    expected = weights_after(builders, config, overrides)
    found = weights_after(builders, config, {**overrides, **POLICIES[policy]})
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_losses_keep_what_the_config_says(name: str) -> None:
    builders, config, overrides = RUNS[name]
    config = builders.resolve(apply_overrides(config, {**overrides, **POLICIES["reversible"]}))
    parts = builders.parts(config, builders.model(config), frozenset())
    using = vars(parts.loss)["using"]
    assert using.memory == Reversible()


def test_policies_have_their_names() -> None:
    config = TabularConfig()
    assert kept(config.training) is None
    for name, policy in (("checkpointed", Checkpointed(2)), ("reversible", Reversible())):
        assert kept(apply_overrides(config, POLICIES[name]).training) == policy


def test_what_has_no_effect_is_refused() -> None:
    for overrides in ({"memory_layers": 3}, {"memory": "reversible", "memory_layers": 3}):
        with pytest.raises(ConfigError, match="memory_layers: expected memory=checkpointed"):
            apply_overrides(ImageConfig(), overrides)
    grouped = apply_overrides(ImageConfig(), POLICIES["checkpointed"])
    assert apply_overrides(grouped, {"memory": "reversible"}).training.memory_layers == 1
    resnet = {"network": "resnet", "memory": "reversible"}
    with pytest.raises(ConfigError, match="memory: expected stored, a resnet is no bijection"):
        apply_overrides(ClassifyConfig(), resnet)
