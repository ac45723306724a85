"""Digits: a trained run beside a Gaussian, a neural spline flow and a masked autoregressive flow.

    python benchmarks/digits.py RUN_FOLDER [--seconds S] [--draws 20] [--threads 2] [--out FILE]

RUN_FOLDER is a finished `uv run apps/train.py image digits-monotone`. The flows of the zuko package
train for as many CPU seconds as that run did, on the same images with the same uniform
dequantisation and logit transform (alpha = .05), standardised per pixel; every model is the one
that was best on the validation images. The Gaussian has the full covariance of the training images
in logit space.

`bits/dim` is the mean over the test images of the bound of -log2 P(x)/D, itself the mean over
draws of the noise; `error` is its standard error over images.
"""

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import final

import torch
import zuko
from flow_core import Chain, Flow, initialize
from flow_core.base import BaseDistribution
from flow_core.dequantization import Dequantized, UniformDequantizer, bits_per_dim
from flow_core.layers import ActNorm, LogitTransform, Reshape
from flow_data import ImageSet, ImageSplits, digits_splits, load_digits
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import Row, machine, parser, print_table, write_json

ALPHA = 0.05
BATCH = 64
VALIDATE_EVERY = 10
FIT_DRAWS = 20


@final
class Vectors(BaseDistribution):
    """A distribution of vectors from another library, as the base of a flow."""

    def __init__(self, dim: int, distribution: nn.Module) -> None:
        super().__init__((dim,))
        self.distribution = distribution

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats."""
        value: Tensor = self.distribution().log_prob(z)
        return value

    def rsample(self, count: int) -> Tensor:
        """Draw `count` vectors."""
        drawn: Tensor = self.distribution().rsample((count,))
        return drawn

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of samples."""
        return torch.get_default_dtype()


@final
class Gaussian(nn.Module):
    """A normal distribution with full covariance."""

    mean: Tensor
    covariance: Tensor

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", points.mean(0))
        self.register_buffer("covariance", torch.cov(points.T))

    def forward(self) -> MultivariateNormal:
        """The distribution."""
        return MultivariateNormal(self.mean, self.covariance)


def in_logit_space(images: ImageSet, base: BaseDistribution) -> Dequantized:
    """The distribution of integer images whose standardised logits have the base distribution."""
    c, h, w = images.shape
    dim = c * h * w
    layers = [LogitTransform(ALPHA), Reshape((c, h, w), (dim,)), ActNorm(dim)]
    flow = Flow(base, Chain(layers), images.shape)
    model = Dequantized(flow, UniformDequantizer(), images.levels)
    initialize(model, images.images)
    return model


def fit_gaussian(splits: ImageSplits) -> Dequantized:
    """Mean and covariance of the training images, over several draws of the noise."""
    dim = math.prod(splits.train.shape)
    model = in_logit_space(splits.train, Vectors(dim, nn.Identity()))
    with torch.no_grad():
        draws = [model.initialize(splits.train.images) for _ in range(FIT_DRAWS)]
    model.flow.base = Vectors(dim, Gaussian(torch.cat(draws)))
    return model


def train(splits: ImageSplits, distribution: nn.Module, seconds: float) -> tuple[Dequantized, int]:
    """The best model on validation within the time, and the steps that it took."""
    model = in_logit_space(splits.train, Vectors(math.prod(splits.train.shape), distribution))
    optimizer = torch.optim.Adam(distribution.parameters(), lr=1e-3)
    best, best_bits, step = copy.deepcopy(model), math.inf, 0
    end = time.process_time() + seconds
    while time.process_time() < end:
        step += 1
        chosen = torch.randint(len(splits.train), (BATCH,))
        optimizer.zero_grad()
        torch.autograd.backward(-model(splits.train.take(chosen)).mean())
        nn.utils.clip_grad_norm_(distribution.parameters(), 10.0)
        optimizer.step()
        if step % VALIDATE_EVERY == 0:
            bits = float(tested(model, splits.validation, 1).mean())
            if bits < best_bits:
                best, best_bits = copy.deepcopy(model), bits
    return best, step


@torch.no_grad()
def tested(model: Dequantized, images: ImageSet, draws: int) -> Tensor:
    """Bits per dimension of every image, the mean over draws of the noise."""
    bounds = torch.stack([model.log_prob_bound(images.images) for _ in range(draws)]).mean(0)
    return bits_per_dim(bounds, images.shape)


def row(name: str, model: Dequantized, splits: ImageSplits, draws: int, **known: float) -> Row:
    """The result of a model."""
    bits = tested(model, splits.test, draws).double()
    return {
        "model": name,
        "bits/dim": float(bits.mean()),
        "error": float(bits.std()) / len(bits) ** 0.5,
        "parameters": sum(p.numel() for p in model.parameters()),
        **known,
    }


def run_row(folder: Path, seconds: float) -> Row:
    """The result of the run itself, from its summary."""
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "model": folder.name,
        "bits/dim": summary["best_test_bits_per_dim"],
        "error": summary["best_standard_error"],
        "parameters": summary["parameters"],
        "steps": summary["steps"],
        "seconds": seconds,
    }


def training_seconds(folder: Path) -> float:
    """How long the run trained, without its evaluations."""
    summary = json.loads((folder / "summary.json").read_text())
    return float(summary["steps"] * summary["cpu_seconds_per_step"])


def compare(arguments: argparse.Namespace) -> list[Row]:
    """One row per model."""
    splits = digits_splits(load_digits())
    dim, draws = math.prod(splits.train.shape), arguments.draws
    seconds = arguments.seconds or training_seconds(arguments.run)
    flows: dict[str, Callable[[], nn.Module]] = {
        "neural spline flow": lambda: zuko.flows.NSF(dim, transforms=3, hidden_features=(128, 128)),
        "masked autoregressive": lambda: zuko.flows.MAF(
            dim, transforms=5, hidden_features=(256, 256)
        ),
    }
    rows: list[Row] = [run_row(arguments.run, training_seconds(arguments.run))]
    for name, make in flows.items():
        torch.manual_seed(0)
        model, steps = train(splits, make(), seconds)
        rows.append(row(name, model, splits, draws, steps=steps, seconds=seconds))
    torch.manual_seed(0)
    gaussian = fit_gaussian(splits)
    rows.append(row("full-covariance Gaussian", gaussian, splits, draws, steps=0, seconds=0.0))
    return rows


def main() -> None:
    """Train the others, print the table, write the JSON."""
    options = parser(__doc__)
    options.add_argument("run", type=Path, help="a finished digits run")
    options.add_argument("--seconds", type=float, help="CPU time of the training of the others")
    options.add_argument("--draws", type=int, default=20, help="of the noise, in the test")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    tables = {"Digits, test images": compare(arguments)}
    for title, rows in tables.items():
        print_table(title, rows)
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
