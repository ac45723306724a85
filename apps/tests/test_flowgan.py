"""The flowgan experiment: discriminators, terms of the loss, turns, resuming, judging, refusals."""

import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_apps.config import apply_overrides
from flow_apps.config.images import ImagesConfig
from flow_apps.errors import ConfigError
from flow_apps.experiments import find_preset
from flow_apps.experiments.flowgan.build import build_discriminator, build_model
from flow_apps.experiments.flowgan.config import (
    DISCRIMINATOR,
    GENERATOR,
    DiscriminatorConfig,
    DiscriminatorName,
    FlowGanConfig,
    WeightsConfig,
)
from flow_apps.experiments.flowgan.discriminators import FlowDiscriminator, dcgan
from flow_apps.experiments.flowgan.judge import Judge
from flow_apps.experiments.flowgan.loss import (
    FlowGanLoss,
    as_it_is,
    gradient_penalty,
    standard_normal,
)
from flow_apps.experiments.flowgan.tests import likelihood_figures
from flow_apps.experiments.glow.config import LayersConfig
from flow_apps.parts.digit_classifier import DigitClassifier
from flow_apps.training import Batch, RunFolder, load_checkpoint
from flow_core import Checkpointed, Reversible, jacobian
from flow_core.memory import MemoryPolicy
from flow_core.settings import Settings
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

Cli = Callable[..., Any]
Child = Callable[..., int]

KINDS: tuple[DiscriminatorName, ...] = ("dcgan", "mine", "biggan", "inv")
CIFAR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)
TINY = LayersConfig(
    linear="conv1x1", num_blocks=2, block_size=1, coupling_width=4, coupling="sigmoid", alpha=0.05
)
QUICK_FLOW = (
    *("--batch-size", 8, "--set", "block_size=1", "--set", "coupling_width=4"),
    *("--set", "evaluate_every=2", "--set", "figures_every=9"),
    *("--set", "stability.every=2", "--set", "stability.images=8", "--set", "jacobians=1"),
    *("--set", "samples=20", "--test-size", 10, "--log-every", 1),
)
QUICK = (*QUICK_FLOW, "--set", "discriminator.width=4")


def small(**changes: Any) -> FlowGanConfig:
    """Of 8x8 digits."""
    defaults: dict[str, Any] = {"flow": TINY, "discriminator": DiscriminatorConfig(width=4)}
    return FlowGanConfig(**(defaults | changes))


def batch(count: int = 4) -> Batch:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 17, (count, *DIGITS), generator=g).to(torch.uint8)
    return Batch(x, noise=torch.rand(count, 3, 8, 8, generator=g), step=1)


def lost(config: FlowGanConfig, *, disturbed: bool = True) -> FlowGanLoss:
    """A loss in float64, whose weights are no longer those of the identity."""
    model = build_model(config)
    discriminator = build_discriminator(config) if config.weights.adversarial else None
    loss = FlowGanLoss(model, discriminator, config, Settings())
    loss.initialize(batch())
    if disturbed:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return loss.double()


def normal_log_prob(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["split"] == split]


def without_clock(folder: Path) -> dict[str, Any]:
    state = load_checkpoint(RunFolder.open(folder).checkpoints.newest())
    del state["clock"]
    return state


def assert_equal(first: object, second: object) -> None:
    """Equal to the last bit, inside any containers."""
    if isinstance(first, Tensor):
        assert isinstance(second, Tensor)
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert isinstance(second, dict)
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_equal(value, second[key])
    elif isinstance(first, list | tuple):
        assert isinstance(second, list | tuple)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def expected_parameters(kind: DiscriminatorName) -> int:
    """Of the published sizes on CIFAR-10, counted by hand."""
    if kind == "dcgan":
        return 16 * (3 * 128 + 128 * 256 + 256 * 512 + 512) + 2 * (256 + 512)
    if kind == "mine":
        sizes = [(3, 64, 3), (64, 64, 4), (64, 128, 3), (128, 128, 4), (128, 256, 3)]
        sizes += [(256, 256, 4), (256, 512, 3)]
        return sum(a * b * k * k + b for a, b, k in sizes) + 8192 + 1
    convolutions = 3 * 256 * 9 + 7 * 256 * 256 * 9 + 8 * 256
    beside = 3 * 256 + 256 + 256 * 256 + 256
    return convolutions + beside + 256 + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", ["cifar10", "mnist", "digits"])
def test_discriminators_give_a_logit_of_every_image(kind: DiscriminatorName, data: Any) -> None:
    images = ImagesConfig(data=data)
    width = None if data == "cifar10" and kind != "inv" else 4
    config = FlowGanConfig(
        images=images, flow=TINY, discriminator=DiscriminatorConfig(kind=kind, width=width)
    )
    discriminator = build_discriminator(config)
    x = torch.rand(2, *images.image_shape)
    discriminator.initialize(x)
    assert discriminator(x).shape == (2,)
    if width is None:
        assert sum(p.numel() for p in discriminator.parameters()) == expected_parameters(kind)
    again = build_discriminator(config).state_dict()
    for name, parameter in build_discriminator(config).named_parameters():
        assert torch.equal(parameter, again[name])


def test_spectral_norms_are_those_of_the_weights() -> None:
    mine = build_discriminator(small(discriminator=DiscriminatorConfig(kind="mine", width=4)))
    for _ in range(50):
        mine(torch.rand(2, *DIGITS))
    normalised = [m for m in mine.eval().modules() if isinstance(m, nn.Conv2d)]
    assert len(normalised) == 7
    for layer in normalised:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=1e-2)


def test_inv_tells_the_mean_of_z_of_another_flow() -> None:
    config = small(discriminator=DiscriminatorConfig(kind="inv"), data_dependent_init=True)
    loss = lost(config)
    assert isinstance(loss.discriminator, FlowDiscriminator)
    x = torch.rand(3, *DIGITS, dtype=torch.float64)
    z = loss.discriminator.layers.bijection.transform(x)
    torch.testing.assert_close(loss.discriminator(x), z.sum(1) / 64)
    assert not torch.allclose(z, loss.model.flow.bijection.transform(x))


@pytest.mark.parametrize("kind", ["mine", "dcgan", "inv"])
def test_the_gradient_penalty_is_that_of_every_gradient(kind: DiscriminatorName) -> None:
    config = small(discriminator=DiscriminatorConfig(kind=kind, width=4))
    critic = lost(config).discriminator
    assert critic is not None
    critic.eval()  # batch normalisations would mix samples, spectral norms would move on
    real, fake = torch.rand(2, 3, *DIGITS, dtype=torch.float64)
    place = torch.rand(3, 1, 1, 1, dtype=torch.float64)
    expected = []
    for x, y, t in zip(real, fake, place, strict=True):
        at = (t * x + (1 - t) * y).requires_grad_()
        (one,) = torch.autograd.grad(critic(at.unsqueeze(0)).sum(), at, create_graph=True)
        expected.append((one.square().sum().sqrt() - 1) ** 2)
    wanted = torch.stack(expected).mean()
    found = gradient_penalty(critic, real, fake, place)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)
    parameters = [p for p in critic.parameters() if p.requires_grad]
    one, other = (
        torch.autograd.grad(v, parameters, allow_unused=True, materialize_grads=True)
        for v in (found, wanted)
    )
    assert any(float(g.abs().max()) > 0 for g in one)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_the_terms_are_those_of_dense_jacobians() -> None:
    weights = WeightsConfig(adversarial=0.7, base_density=0.2, log_det=0.3, entropy=0.5)
    loss = lost(small(weights=weights)).eval()
    flow, drawn = loss.model.flow, loss.drawn(batch())
    forward, backward = flow.bijection.transform, flow.bijection.inverse
    z = forward(drawn.real)
    base = -normal_log_prob(z).mean()
    of_real = torch.linalg.slogdet(jacobian(flow.bijection, drawn.real))[1]
    inverse = jacobian(flow.bijection, drawn.z, direction="inverse")
    of_fake = torch.linalg.slogdet(inverse)[1]
    volume = 64 * math.log(17) - of_real.mean()
    entropy = (normal_log_prob(drawn.z) - of_fake).mean()
    assert loss.discriminator is not None
    logits = loss.discriminator(backward(drawn.z))
    ones = torch.ones_like(logits)
    adversarial = binary_cross_entropy_with_logits(logits, ones)
    total, scalars = loss(batch(), GENERATOR)
    expected = 0.7 * adversarial + 0.2 * base + 0.3 * volume + 0.5 * entropy
    torch.testing.assert_close(total, expected, rtol=1e-8, atol=0)
    terms = {"base_density": base, "log_det": volume, "entropy": entropy}
    for name, value in (terms | {"adversarial": adversarial}).items():
        torch.testing.assert_close(scalars[name], value.detach(), rtol=1e-8, atol=0)
    log_prob = loss.model(batch().x, noise=batch().noise[:, :1].double())  # type: ignore[index] # it has
    nats = float(scalars["bits_per_dim"]) * 64 * math.log(2)
    assert nats == pytest.approx(-float(log_prob.detach().mean()), rel=1e-8)


def test_the_discriminator_is_trained_on_both_kinds_of_images() -> None:
    config = small(discriminator=DiscriminatorConfig(width=4, gradient_penalty=3.0))
    loss = lost(config).eval()
    assert loss.discriminator is not None
    drawn = loss.drawn(batch())
    real = loss.discriminator(drawn.real)
    fake = loss.discriminator(loss.model.flow.bijection.inverse(drawn.z))
    penalty = gradient_penalty(
        loss.discriminator, drawn.real, loss.model.flow.bijection.inverse(drawn.z), drawn.place
    )
    told = 0.5 * (softplus(-real).mean() + softplus(fake).mean())
    total, scalars = loss(batch(), DISCRIMINATOR)
    torch.testing.assert_close(total, told + 3 * penalty)
    assert float(scalars["real_accuracy"]) == float((real > 0).double().mean())
    assert float(scalars["fake_accuracy"]) == float((fake <= 0).double().mean())


@pytest.mark.parametrize("memory", [Checkpointed(2), Reversible()])
def test_what_is_kept_of_passes_does_not_change_gradients(memory: MemoryPolicy) -> None:
    weights = WeightsConfig(base_density=0.2, log_det=0.3, entropy=0.5)
    loss = lost(small(weights=weights)).eval()
    found = []
    for policy in (None, memory):
        loss.using = Settings(memory=policy)
        loss.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(batch(), GENERATOR)[0])
        found.append([p.grad for p in loss.model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", ["dcgan", "mine"])
def test_a_turn_leaves_the_other_network_as_it_is(kind: DiscriminatorName) -> None:
    config = small(discriminator=DiscriminatorConfig(kind=kind, width=4))
    loss = lost(config).train()
    assert loss.discriminator is not None
    networks = {GENERATOR: loss.model, DISCRIMINATOR: loss.discriminator}
    for turn, network in networks.items():
        before = {k: v.clone() for k, v in loss.state_dict().items()}
        loss.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(batch(), turn)[0])
        own = {id(p) for p in network.parameters()}
        with_gradients = {id(p) for p in loss.parameters() if p.grad is not None}
        assert with_gradients
        assert with_gradients <= own
        prefix = "model." if turn == GENERATOR else "discriminator."
        moved = {k for k, v in loss.state_dict().items() if not torch.equal(v, before[k])}
        assert all(name.startswith(prefix) for name in moved)
        # Spectral norms and statistics follow in the turn of the discriminator, and only there.
        assert bool(moved) is (turn == DISCRIMINATOR)


def test_a_frozen_network_has_the_statistics_of_its_batch() -> None:
    critic = dcgan(DIGITS, 4).train()
    x = torch.rand(5, *DIGITS)
    before = {k: v.clone() for k, v in critic.state_dict().items()}
    found = as_it_is(critic)(x)
    for name, value in critic.state_dict().items():
        assert torch.equal(value, before[name])
    torch.testing.assert_close(found, critic(x))
    assert not found.requires_grad


def test_latents_are_normal_and_never_infinite() -> None:
    edges = torch.tensor([0.0, 1 - 2.0**-24])
    assert bool(standard_normal(edges).isfinite().all())
    assert float(standard_normal(edges).sum()) == pytest.approx(0, abs=1e-6)
    z = standard_normal(torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    moments = [float((z**k).mean()) for k in (1, 2, 4)]
    assert moments == pytest.approx([0, 1, 3], abs=0.05)


def test_what_is_not_finite_is_counted_and_in_no_mean() -> None:
    found = likelihood_figures(torch.tensor([1.0, 3.0, math.inf, math.nan]))
    assert found["bits_per_dim"] == 2
    assert found["not_finite"] == 2
    assert likelihood_figures(torch.tensor([math.nan])) == {"not_finite": 1}


def test_a_judge_counts_confident_samples_of_all_and_classes_of_finite_ones() -> None:
    torch.manual_seed(0)
    classifier = DigitClassifier(DIGITS, 10, mean=(0.3,), std=(0.01,)).eval()
    samples = torch.rand(6, *DIGITS)
    samples[4, 0, 0, 0], samples[5, 0, 1, 1] = torch.nan, torch.inf
    probabilities = classifier(samples[:4]).softmax(1).detach()
    likeliest = probabilities.amax(1).sort().values
    judge = Judge(classifier, float(likeliest[1:3].mean()))
    figures = judge.figures(judge.verdicts(samples))
    assert figures["confident"] == pytest.approx(2 / 6)
    shares = torch.bincount(probabilities.argmax(1)).double() / 4
    entropy = -torch.special.xlogy(shares, shares).sum()
    assert figures["class_entropy"] == pytest.approx(float(entropy))
    assert judge.figures(judge.verdicts(samples[4:])) == {"confident": 0}


def test_published_presets_say_what_their_commands_say() -> None:
    preset = find_preset("cifar10-flowgan-bounded-1e-4")[1]
    config, words = preset.config, preset.published.split()
    flags = dict(pairwise(words))
    assert isinstance(config, FlowGanConfig)
    first, second = config.training.optimizers
    assert (first.learning_rate, second.learning_rate) == (
        float(flags["--lr"]),
        float(flags["--disc_lr"]),
    )
    assert config.weights == WeightsConfig(
        adversarial=float(flags["--weight_gan"]),
        base_density=float(flags["--weight_prior"]),
        log_det=float(flags["--weight_logdet"]),
    )
    assert (config.flow.block_size, config.flow.coupling_width) == (8, 128)
    assert config.flow.actnorm_bound is not None
    assert math.exp(config.flow.actnorm_bound) == pytest.approx(float(flags["--actnorm_max_scale"]))
    assert find_preset("cifar10-flowgan-1e-4")[1].config.flow.actnorm_bound is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weights.adversarial": 0.0}, "weights: expected one that is positive"),
        ({"weights.adversarial": 0.0, "weights.entropy": 1.0}, "of the turns generator with"),
        ({"weights.entropy": -1.0}, "entropy: expected 0 or a positive number"),
        ({"further_optimizers": []}, "of the turns generator and discriminator with"),
        ({"discriminator.width": 0}, "width: expected"),
        ({"gradient_penalty": -1.0}, "gradient_penalty: expected 0 or more"),
        ({"regularizers.density": 1.0}, "density: "),
        ({"linear": "self-normalizing"}, "flow.linear: expected one with an exact"),
        ({"judge_confidence": 0.5}, "judge_confidence: has no effect with judge=none"),
        ({"judge": "x", "judge_confidence": 1.0}, "judge_confidence: expected in"),
        ({"stability.every": 150}, "a multiple of evaluate_every"),
    ],
)
def test_bad_options_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        apply_overrides(find_preset("digits-flowgan")[1].config, changes)


def test_an_optimizer_of_the_other_network_is_refused() -> None:
    config = small()
    (other,) = config.training.further_optimizers
    mixed = replace(other, parameters=("model.*",))
    with pytest.raises(ConfigError, match=r"expected discriminator\.\* of turn discriminator"):
        replace(config, training=replace(config.training, further_optimizers=(mixed,)))


def test_a_discriminator_without_a_turn_is_refused() -> None:
    config = find_preset("digits-flowgan-mle")[1].config
    with pytest.raises(ConfigError, match=r"discriminator\.kind: has no effect"):
        apply_overrides(config, {"discriminator.kind": "dcgan"})


@pytest.mark.usefixtures("few_digits")
def test_a_run_that_is_killed_goes_on_as_if_it_were_not(
    cli: Cli, in_child: Child, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = (
        *(*QUICK, "--set", "weights.entropy=1e-3", "--set", "weights.base_density=1e-3"),
        *("--set", "checkpoint_seconds=1e-6"),
    )
    child = in_child("flowgan", *options, "--iterations", 100_000, "--out", killed)
    checkpoints = killed / "checkpoints"
    limit = time.monotonic() + 120
    while not list(checkpoints.glob("step_00000000[3-9].ckpt")):
        assert time.monotonic() < limit
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = max(RunFolder.open(killed).checkpoints.steps())
    end = done + 2 + done % 2
    resumed = cli("flowgan", "--resume", "--iterations", end, "--out", killed)
    assert resumed.exit_code == 0, resumed.output
    assert cli("flowgan", *options, "--iterations", end, "--out", whole).exit_code == 0
    first, second = without_clock(whole), without_clock(killed)
    assert len(first["optimizers"]) == 2
    assert any(name.startswith("discriminator.") for name in first["loss"])
    assert_equal(first, second)
    for split in ("validation", "stability", "samples"):
        assert rows(whole, split) == rows(killed, split)


@pytest.mark.usefixtures("few_digits")
def test_evaluations_tell_likelihood_stability_and_what_samples_look_like(
    cli: Cli, tmp_path: Path
) -> None:
    judge, run = tmp_path / "judge", tmp_path / "run"
    brief = ("--batch-size", 16, "--iterations", 4, "--test-size", 10)
    assert cli("classify", "digits-judge", *brief, "--out", judge).exit_code == 0
    options = (*QUICK, "--set", f"judge={judge}", "--set", "weights.log_det=1e-3")
    done = cli("flowgan", *options, "--set", "jacobian=1e-3", "--iterations", 3, "--out", run)
    assert done.exit_code == 0, done.output
    (at_two, at_end) = rows(run, "samples")
    assert at_two.keys() >= {"nan", "inf", "confident", "class_entropy", "condition"}
    assert at_two.keys() == at_end.keys() - {"at_end"}
    (first, _) = rows(run, "stability")
    assert first["condition"] >= 1
    (trained, *_) = rows(run, "train")
    assert trained.keys() >= {
        "generator/loss",
        "generator/bits_per_dim",
        "generator/jacobian_penalty",
        "discriminator/gradient_penalty",
        "discriminator/learning_rate",
    }
    summary = json.loads((run / "summary.json").read_text())
    assert summary["samples_condition"] == at_end["condition"]
    assert summary["test_not_finite"] == 0
    assert {path.name for path in (run / "figures").iterdir()} >= {
        "samples_000003.png",
        "stability.png",
    }
    assert cli("sample", run, "--count", 2).exit_code == 0
    wrong = cli("flowgan", *QUICK, "--set", f"judge={run}", "--out", tmp_path / "other")
    assert wrong.exit_code == 1
    assert "judge: expected the folder of a run of classify, got flowgan" in wrong.output


@pytest.mark.usefixtures("few_digits")
def test_the_likelihood_alone_needs_no_discriminator(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = cli("flowgan", "digits-flowgan-mle", *QUICK_FLOW, "--iterations", 4, "--out", run)
    assert done.exit_code == 0, done.output
    first, *_, last = [row["generator/bits_per_dim"] for row in rows(run, "train")]
    assert math.isfinite(first)
    assert math.isfinite(last)
    assert not any(name.startswith("discriminator") for name in without_clock(run)["loss"])
