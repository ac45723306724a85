"""Names, presets and configs are had without torch; lists and descriptions tell the truth."""

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import pytest
from flow_apps.config import describe
from flow_apps.config.estimation import EstimatorName
from flow_apps.errors import ConfigError
from flow_apps.experiments import EXPERIMENTS, all_presets, find_preset
from flow_apps.experiments.fit1d.config import TargetName
from flow_apps.experiments.glow.config import GlowConfig, LayersConfig, ReconstructionName
from flow_apps.experiments.image.config import (
    ActivationOfCoupling,
    BlockOfImages,
    NetOfImages,
    OrderOfCoupling,
    ScaleOfCoupling,
)
from flow_apps.experiments.toy2d.config import DensityName
from flow_apps.registry import Experiment, Preset, register
from flow_core import FlowConfig
from flow_core.layers import Reconstruction
from flow_core.models.config import (
    ActivationOfCouplings,
    Block,
    Net,
    OrderOfCouplings,
    ScaleOfCouplings,
)
from flow_data import TARGETS, TOY_DENSITIES
from flow_logdet import PUBLISHED

ALL = tuple(preset.name for _, preset in all_presets())


def output_of(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_names_and_configs_import_no_torch() -> None:
    code = (
        "import sys, flow_apps, flow_apps.cli, flow_apps.requests\n"
        "from flow_apps.experiments import all_presets\n"
        "assert len(list(all_presets())) > 60\n"
        "heavy = ('torch', 'numpy', 'matplotlib', 'torchvision', 'tensorboard')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = output_of("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("toy2d", "2spiral-monotone"), "did you mean 2spirals-monotone"),
        (("config", "digit-monotone"), "did you mean digits-monotone"),
        (("glow", "--set", "linear=mcow"), "did you mean macow"),
        (("image", "--resume", "--out", "nowhere"), "no such run"),
    ],
)
def test_mistakes_are_answered_before_torch_is_imported(
    arguments: tuple[str, ...], answer: str
) -> None:
    code = (
        "import atexit, sys\n"
        "from flow_apps.cli import app\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        f"sys.argv = ['train.py', *{arguments!r}]\napp()"
    )
    done = output_of("-c", code)
    assert done.returncode == 1
    assert answer in done.stderr
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (DensityName, TOY_DENSITIES),
        (TargetName, TARGETS),
        (BlockOfImages, get_args(Block)),
        (NetOfImages, get_args(Net)),
        (ScaleOfCoupling, get_args(ScaleOfCouplings)),
        (OrderOfCoupling, get_args(OrderOfCouplings)),
        (ActivationOfCoupling, get_args(ActivationOfCouplings)),
        (ReconstructionName, get_args(Reconstruction)),
        (EstimatorName, ["default", "exact", "krylov", "one-probe", *PUBLISHED]),
    ],
)
def test_names_that_are_written_twice_agree(names: Any, known: Any) -> None:
    assert set(get_args(names)) == set(known)


def test_the_layers_of_a_glow_are_the_fields_of_its_flow() -> None:
    ours = {f.name: (f.default, f.type) for f in fields(LayersConfig)}
    theirs = {f.name: (f.default, f.type) for f in fields(FlowConfig)}
    assert ours.keys() == theirs.keys()
    for name, (default, kind) in ours.items():
        assert default == theirs[name][0], name
        assert get_args(kind) == get_args(theirs[name][1]), name


@pytest.mark.parametrize("name", ALL)
def test_every_field_is_described(name: str) -> None:
    _, preset = find_preset(name)
    lines = list(describe(preset.config))
    assert [line.key for line in lines if not (line.kind and line.meaning)] == []
    assert len({line.key for line in lines}) == len(lines) == count(preset.config)


def count(config: Any) -> int:
    """How many fields a config and the configs in it have."""
    values = [getattr(config, f.name) for f in fields(config)]
    return sum(count(value) if is_dataclass(value) else 1 for value in values)


def test_a_description_reads_as_the_command_line_writes(cli: Any) -> None:
    result = cli("config", "small-inverse-conv-mnist", "--set", "linear=conv1x1")
    assert result.exit_code == 0
    assert "flow.tap_bound = none" in result.output
    assert "training.optimizer.schedule.warmup = 100" in result.output
    assert "one of glow, cnn, fully-connected" in " ".join(result.output.split())
    assert max(map(len, result.output.splitlines())) <= 80


def test_lists_fit_a_narrow_terminal(cli: Any) -> None:
    result = cli("presets")
    assert max(map(len, result.output.splitlines())) <= 80
    for experiment, preset in all_presets():
        assert preset.name in result.output
        assert preset.summary in result.output
        assert experiment.summary in result.output


FEW = ("2spirals-monotone", "d-monotone", "digits-monotone", "small-self-normalizing-mnist")


@pytest.mark.parametrize(
    "names", [FEW, pytest.param(ALL, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_presets_are_told_as_json_with_their_parameters(cli: Any, names: tuple[str, ...]) -> None:
    told = {entry["name"]: entry for entry in json.loads(cli("presets", "--json", *names).output)}
    assert told.keys() == set(names)
    toy = told["2spirals-monotone"]
    assert toy["experiment"] == "toy2d"
    assert toy["published"].startswith("python train_toy.py --data 2spirals")
    assert told["digits-monotone"]["published"] is None
    model = EXPERIMENTS["toy2d"].load().model(find_preset("2spirals-monotone")[1].config)
    assert toy["parameters"] == sum(p.numel() for p in model.parameters())
    assert all(entry["parameters"] > 0 for entry in told.values())


def test_presets_are_listed_by_name(cli: Any) -> None:
    assert cli("presets", *FEW).output.splitlines()[1].startswith("  2spirals-monotone  ")
    unknown = cli("presets", "2spirals-monoton")
    assert unknown.exit_code == 1
    assert "2spirals-monotone" in unknown.output


def test_help_tells_all_sets_of_images(cli: Any) -> None:
    for command in ("image", "glow"):
        words = cli(command, "--help").output.replace("│", " ").split()
        for name in ("digits,", "mnist,", "cifar100,", "imagenet64,", "celeba,", "npz,"):
            assert name in words
    assert "--test-size" in cli("toy2d", "--help").output


def test_a_name_is_registered_once() -> None:
    preset = Preset("2spirals-monotone", GlowConfig(), "taken")
    taken = Experiment("new", "New.", GlowConfig, (preset,), "nowhere:BUILDERS")
    with pytest.raises(ValueError, match="2spirals-monotone is taken"):
        register(taken)
    with pytest.raises(ValueError, match="at least one preset"):
        register(Experiment("new", "New.", GlowConfig, (), "nowhere:BUILDERS"))
    assert "new" not in EXPERIMENTS
    with pytest.raises(ConfigError, match="unknown preset 'nothing'"):
        find_preset("nothing")
