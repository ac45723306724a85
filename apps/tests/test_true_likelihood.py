"""What training and tests report is the likelihood, within the standard error that they report.

On 8x8 images of three channels, 192 dimensions, where log-determinants are estimates in training
and in tests, and a dense Jacobian can still tell the truth.

A comparison fails for a right estimator beyond `_SIGMAS` standard errors and the reported bias.
Of evaluations, whose errors are reported, and means over sixteen images near enough normal, that is
once in two million. Training tells no error of its one probe: it is taken from twelve repeats, and
by Student's law that is once in 2,500. Seeds are fixed. There are no ActNorms: blocks that have to
scale by themselves have Jacobians that a wrong value cannot hide behind.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from flow_apps.config import apply_overrides
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.experiments.image.build import build_model, build_parts, build_upkeep
from flow_apps.experiments.image.config import ImageConfig
from flow_apps.parts.image_sets import images_as_read
from flow_apps.parts.likelihood import BitsLoss
from flow_apps.parts.settings import split_settings, training_settings
from flow_apps.training import Batch, Parts
from flow_core import Dequantized, jacobian
from flow_core.dequantization import bits_per_dim
from flow_core.record import record
from flow_core.settings import Settings
from flow_data import WHOLE
from flow_logdet import Exact, published_estimator
from torch import Tensor

_SIGMAS = 5.0
_DIM = 3 * 8 * 8
_BITS = 1 / (_DIM * math.log(2))
_REPEATS = 12
_EXACT = Settings(estimator=Exact(limit=_DIM))

SMALL: dict[str, Any] = {
    "images.data": "npz",
    "images.held_out": 16,
    "images.validation_size": 16,
    "scales": [1, 1],
    "growth": 8,
    "depth": 2,
    "dense_blocks": 1,
    "dense_growth": 8,
    "actnorm": False,
    "training.batch_size": 16,
    "milestones": [],
    "training.optimizer.learning_rate": 0.02,
}
_STEPS = 30


def crops(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Waves of few frequencies in correlated colours with a little noise, like crops of photos."""
    draw = np.random.default_rng(seed)
    place = np.arange(8) / 8
    phases, waves = draw.uniform(0, 2 * np.pi, (2, count, 1)), draw.uniform(0.3, 1.5, (2, count, 1))
    rows, columns = (np.sin(2 * np.pi * w * place + p) for w, p in zip(waves, phases, strict=True))
    light = rows[:, :, None] * columns[:, None, :]
    colours = draw.uniform(20, 60, (count, 3, 1, 1))
    images = 128 + colours * light[:, None] + draw.normal(0, 6, (count, 3, 8, 8))
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = images.clip(0, 255).astype(np.uint8)
    return pixels.reshape(count, _DIM)


@pytest.fixture(scope="module", params=["monotone", "residual"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Dequantized, Parts]]:
    """A small flow of two scales after a short training, and its parts."""
    tmp_path = tmp_path_factory.mktemp("crops")
    for part, seed in (("train", 0), ("val", 1)):
        labels = np.zeros(160, dtype=np.int64)
        np.savez(tmp_path / f"{part}_data.npz", data=crops(160, seed), labels=labels)
    images_as_read.cache_clear()
    more = {"images.data_root": str(tmp_path), "images.shape": [3, 8, 8], "block": request.param}
    config = apply_overrides(ImageConfig(), SMALL | more)
    model = build_model(config)
    assert isinstance(model, Dequantized)
    parts = build_parts(config, model, frozenset())
    train(config, model, parts)
    yield model, parts
    images_as_read.cache_clear()


def train(config: ImageConfig, model: Dequantized, parts: Parts) -> None:
    """Some steps by hand, after which the last loss is well below the first."""
    upkeep = build_upkeep(config, model)
    parts.loss.initialize(parts.data.batch(1, WHOLE))
    optimizer = torch.optim.Adam(parts.loss.parameters(), 0.02, (0.9, 0.99))
    losses = list[float]()
    torch.manual_seed(0)
    for step in range(1, _STEPS + 1):
        optimizer.zero_grad()
        loss, _ = parts.loss(parts.data.batch(step, WHOLE))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parts.loss.parameters(), 1.0)
        optimizer.step()
        upkeep.after_optimizer_step(step)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.3


def bits(model: Dequantized, batch: Batch, using: Settings) -> Tensor:
    """Bits per dimension of every image, with the noise of the batch."""
    with torch.no_grad():
        log_prob = model(batch.x, noise=batch.noise, using=using)
    return bits_per_dim(log_prob, model.event_shape).double()


def test_the_exact_estimator_is_the_determinant_of_the_dense_jacobian(
    trained: tuple[Dequantized, Parts],
) -> None:
    model, parts = deepcopy(trained[0]).double().eval(), trained[1]
    whole = parts.data.batch(1, WHOLE)
    assert whole.noise is not None
    x, noise = whole.x[:2], whole.noise[:2].double()
    y = (x + noise) / 256
    matrices = jacobian(model.flow.bijection, y, chunk=48, using=_EXACT)
    with torch.no_grad():
        z = model.flow.bijection.transform(y, using=_EXACT)
        base = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        log_prob = model(x, noise=noise, using=_EXACT)
    expected = base + torch.linalg.slogdet(matrices).logabsdet - _DIM * math.log(256)
    torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-4)


def test_the_reported_likelihood_is_the_true_one(trained: tuple[Dequantized, Parts]) -> None:
    model, parts = trained
    batch = parts.data.batch(_STEPS + 1, WHOLE)
    model.eval()
    torch.manual_seed(0)
    with record(model) as report:
        found = bits(model, batch, split_settings(EstimatorConfig(), _DIM).test)
    misses = found - bits(model, batch, _EXACT)
    blocks = report.summary().values()
    error = _BITS * sum((block.log_det_error or 0.0) ** 2 for block in blocks) ** 0.5
    bias = _BITS * sum(abs(block.log_det_bias or 0.0) for block in blocks)
    assert 0 < bias < 0.01
    assert abs(float(misses.mean())) < _SIGMAS * error / len(misses) ** 0.5 + bias
    # An error that is told twice too large or too small, of 16 images: once in two thousand.
    assert error / 2 < float(misses.square().mean().sqrt()) < 2 * error + bias


def test_validation_is_as_true_from_far_fewer_products(
    trained: tuple[Dequantized, Parts],
) -> None:
    model, parts = trained
    batch, using = parts.data.batch(_STEPS + 1, WHOLE), split_settings(EstimatorConfig(), _DIM)
    model.eval()
    found = list[float]()
    with record(model) as report:
        for seed in range(_REPEATS):
            torch.manual_seed(seed)
            found.append(float(bits(model, batch, using.of("validation")).mean()))
    blocks = report.summary().values()
    bias = _BITS * sum(abs(block.log_det_bias or 0.0) for block in blocks)
    truth = float(bits(model, batch, _EXACT).mean())
    assert distance(found, truth + bias) < _SIGMAS or distance(found, truth - bias) < _SIGMAS
    with record(model) as tested:
        bits(model, batch, using.of("test"))
    last = [sum(b.products for b in report.summary().values()) for report in (report, tested)]
    assert 10 * last[0] < last[1]


def test_the_loss_of_training_is_the_true_one_and_the_published_value_is_not(
    trained: tuple[Dequantized, Parts],
) -> None:
    model, parts = trained
    batch = parts.data.batch(_STEPS + 1, WHOLE)
    truth = float(bits(model, batch, _EXACT).mean())
    assert isinstance(parts.loss, BitsLoss)
    assert parts.loss.using == training_settings(EstimatorConfig(), _DIM, frozenset())
    assert distance(losses(parts.loss, batch), truth) < _SIGMAS
    # The Neumann value with signs for probes; with normal numbers its noise would hide its bias.
    published = Settings(estimator=published_estimator("implicit-flow-training"))
    assert distance(losses(BitsLoss(model, published), batch), truth) > 4 * _SIGMAS


def losses(loss: BitsLoss, batch: Batch) -> list[float]:
    """What training logs of a batch, for as many draws of the probes."""
    loss.train()
    found = list[float]()
    for seed in range(_REPEATS):
        torch.manual_seed(seed)
        value, scalars = loss(batch)
        assert scalars["bits_per_dim"] == value.detach()
        found.append(float(value.detach()))
    return found


def distance(values: list[float], truth: float) -> float:
    """How many standard errors the mean of values is away, by their own spread."""
    found = torch.tensor(values).double()
    of_mean = found.std() / len(values) ** 0.5
    return float((found.mean() - truth).abs() / of_mean)
