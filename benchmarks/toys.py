"""Where a training step of the 2-D toys spends its CPU time.

    python benchmarks/toys.py [--quick] [--steps 500] [--density 2spirals] [--no-compile]
                              [--paper monotone|implicit] [--threads 1] [--out FILE]

The recipe of the paper (batch 500, 10 blocks, Adam) with the objectives and the optimizer of the
applications, monotone and i-DenseNet, and the presets of sandwich nets, eager and compiled; of the
paper of implicit flows the presets of implicit and residual blocks (batch 5000). The
variants take turns step by step, so that other load meets all of them alike; the first ten steps
(compilation) are left out.

`all` is CPU milliseconds per step, `first` and `last` its mean over the first and last tenth of
the steps. The parts: `bind` makes effective weights, `solve` finds the fixed points, `log-det`
linearizes and takes determinants, `pull-back` is the backward pass of the blocks with its adjoint
solves, `lipschitz` is `update_lipschitz`. `evaluations` are batched evaluations of G per solve,
mean and largest.

`published` is the step of the published i-DenseNet or implicit flow, re-implemented
(`published_step.py`, `published_implicit_step.py`), and
`ratio` the step over it: the speed of the machine at that moment cancels. The published code took
51 ms on the machine of the specification, so that 25 ms are a ratio of 0.49 and 70 ms one of 1.37.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from flow_apps.config import OptimizerConfig, TrainingConfig
from flow_apps.experiments.toy2d.build import BUILDERS
from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.registry import find_preset
from flow_apps.training.compilation import has_compiler
from flow_apps.training.optimizers import make_optimizers
from flow_apps.training.randomness import seed_step
from flow_core.maps import BoundNet, DenseNet, FeedForwardNet, SandwichNet
from flow_core.record import record
from flow_core.settings import Solve
from flow_data import WHOLE
from flow_data.toy import sample_toy
from flow_logdet import Exact

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.published_implicit_step import PublishedImplicitTrainer
from benchmarks.published_step import PublishedTrainer
from benchmarks.tables import Row, machine, parser, print_table, write_json

ResultT = TypeVar("ResultT")
Yardstick: TypeAlias = type[PublishedTrainer] | type[PublishedImplicitTrainer]
Variants: TypeAlias = Callable[[str, int], list[Toy2dConfig]]

WARMUP = 10
PARTS = (
    ("bind", DenseNet, "bind_group"),
    ("bind", SandwichNet, "bind_group"),
    ("bind", FeedForwardNet, "bind_group"),
    ("solve", Solve, "__call__"),
    ("log-det", Exact, "linearize"),
    ("log-det", Exact, "log_det"),
    ("pull-back", BoundNet, "run"),
)
BACKWARD = "other backward"


class Stopwatch:
    """CPU seconds by name; what runs inside another part counts for the inner one only."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.process_time()

    @contextmanager
    def part(self, name: str) -> Generator[None, None, None]:
        """Count what happens inside for `name`."""
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def timed(self, name: str, function: Callable[..., ResultT]) -> Callable[..., ResultT]:
        """The function, counted for `name`; a pull-back only inside the backward pass."""

        def run(*arguments: object, **keywords: object) -> ResultT:
            if name == "pull-back" and BACKWARD not in self._open:
                return function(*arguments, **keywords)
            with self.part(name):
                return function(*arguments, **keywords)

        return run

    def _switch(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@contextmanager
def parts_timed(watch: Stopwatch) -> Generator[None, None, None]:
    """Count calls of the library's parts inside, for every model."""
    originals = [(owner, method, getattr(owner, method)) for _, owner, method in PARTS]
    for (name, owner, method), (_, _, function) in zip(PARTS, originals, strict=True):
        setattr(owner, method, watch.timed(name, function))
    try:
        yield
    finally:
        for owner, method, function in originals:
            setattr(owner, method, function)


class Trainer:
    """One variant: a step as the applications make it, with a stopwatch for every part."""

    def __init__(self, config: Toy2dConfig, *, compiled: bool) -> None:
        self.config = config
        self.compiled = compiled and has_compiler()
        sizes = frozenset([config.training.batch_size] if self.compiled else [])
        model = BUILDERS.model(config)
        self.parts, self.upkeep = (
            BUILDERS.parts(config, model, sizes),
            BUILDERS.upkeep(config, model),
        )
        (assigned,) = make_optimizers(self.parts.loss, config.training.optimizers)
        self.optimizer = assigned.optimizer
        with torch.no_grad():
            self.parts.loss.initialize(self.parts.data.batch(1, WHOLE))
        self.watch = Stopwatch()
        self.steps: list[float] = []
        self.evaluations: list[float] = []
        self.deepest = 0

    def step(self, number: int) -> None:
        """One training step."""
        if number == WARMUP + 1:
            self.watch.seconds.clear()
        start = time.process_time()
        with ExitStack() as stack:
            stack.enter_context(parts_timed(self.watch))
            report = stack.enter_context(record())
            self._train(number)
        if number > WARMUP:
            self.steps.append(time.process_time() - start)
        for block in report.summary().values():
            self.evaluations.append(block.evaluations)
            self.deepest = max(self.deepest, block.max_evaluations)

    def _train(self, number: int) -> None:
        seed_step(self.config.training.seed, number, 0, torch.device("cpu"))
        self.optimizer.zero_grad(set_to_none=True)
        with self.watch.part("data"):
            batch = self.parts.data.batch(number, WHOLE)
        with self.watch.part("other forward"):
            loss, _ = self.parts.loss(batch)
        with self.watch.part(BACKWARD):
            torch.autograd.backward(loss)
        with self.watch.part("optimizer"):
            self.upkeep.before_optimizer_step(number)
            self.optimizer.step()
        with self.watch.part("lipschitz"):
            self.upkeep.after_optimizer_step(number)

    def row(self, yardstick: float) -> Row:
        """Milliseconds per step, its ratio to the yardstick, parts, evaluations."""
        tenth = max(1, len(self.steps) // 10)
        row: dict[str, str | int | float] = {
            "model": _name(self.config),
            "mode": "compiled" if self.compiled else "eager",
            "all": _mean_ms(self.steps),
            "ratio": _mean_ms(self.steps) / yardstick,
            "first": _mean_ms(self.steps[:tenth]),
            "last": _mean_ms(self.steps[-tenth:]),
        }
        names = [name for name, _, _ in PARTS]
        for part in dict.fromkeys([*names, "other forward", BACKWARD]):
            row[part] = 1e3 * self.watch.seconds[part] / len(self.steps)
        for part in ("optimizer", "lipschitz", "data"):
            row[part] = 1e3 * self.watch.seconds[part] / len(self.steps)
        mean = sum(self.evaluations) / max(1, len(self.evaluations))
        return row | {"evaluations": f"{mean:.1f} / {self.deepest}"}


class Published:
    """The re-implemented published step, timed alike."""

    def __init__(self, config: Toy2dConfig, kind: Yardstick) -> None:
        torch.manual_seed(config.training.seed)
        self.trainer, self.config = kind(), config
        self.steps: list[float] = []

    def step(self, number: int) -> None:
        """One training step."""
        source = torch.Generator().manual_seed(number)
        start = time.process_time()
        points = sample_toy(self.config.density, self.config.training.batch_size, generator=source)
        self.trainer.step(points)
        if number > WARMUP:
            self.steps.append(time.process_time() - start)

    def mean_ms(self) -> float:
        """CPU milliseconds per step."""
        return _mean_ms(self.steps)

    def row(self) -> Row:
        """What it has of the columns."""
        implicit = isinstance(self.trainer, PublishedImplicitTrainer)
        model = "implicit" if implicit else "residual"
        known: Row = {"model": model, "mode": "published", "all": self.mean_ms(), "ratio": 1.0}
        return known


def _name(config: Toy2dConfig) -> str:
    return config.net if config.net == "sandwich" else config.block


def _mean_ms(seconds: list[float]) -> float:
    return 1e3 * sum(seconds) / len(seconds)


def monotone_paper(density: str, steps: int) -> list[Toy2dConfig]:
    """Monotone blocks, an i-DenseNet, and the quick recipe."""
    training = TrainingConfig(iterations=steps, optimizer=OptimizerConfig(weight_decay=1e-5))
    quick = _preset(f"{density}-sandwich")
    common = Toy2dConfig(density=quick.density, training=training)
    return [common, replace(common, block="residual", activation="clipswish"), quick]


def implicit_paper(density: str, steps: int) -> list[Toy2dConfig]:
    """Implicit blocks and residual ones of equal size."""
    del steps  # neither has a schedule
    return [_preset(f"{density}-{kind}") for kind in ("impflow", "resflow")]


PAPERS: dict[str, tuple[Variants, Yardstick]] = {
    "monotone": (monotone_paper, PublishedTrainer),
    "implicit": (implicit_paper, PublishedImplicitTrainer),
}


def _preset(name: str) -> Toy2dConfig:
    config = find_preset(name)[1].config
    if not isinstance(config, Toy2dConfig):
        raise TypeError(f"expected a preset of toy2d, got {config}")
    return config


def variants(configs: Sequence[Toy2dConfig], *, compiled: bool) -> list[Trainer]:
    """All models, eager and compiled."""
    modes = (False, True) if compiled else (False,)
    return [Trainer(config, compiled=mode) for config in configs for mode in modes]


def main() -> None:
    """Train everything in turns, print the table, write the JSON."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=500)
    options.add_argument("--density", default="2spirals")
    options.add_argument("--no-compile", action="store_true")
    options.add_argument("--paper", choices=PAPERS, default="monotone")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = min(arguments.steps, 40) if arguments.quick else arguments.steps
    if steps <= WARMUP:
        raise SystemExit(f"expected more than {WARMUP} steps, got {steps}")
    print(machine())
    configs_of, kind = PAPERS[arguments.paper]
    trainers = variants(configs_of(arguments.density, steps), compiled=not arguments.no_compile)
    published = Published(trainers[0].config, kind)
    for number in range(1, steps + 1):
        published.step(number)
        for trainer in trainers:
            trainer.step(number)
    rows = [trainer.row(published.mean_ms()) for trainer in trainers]
    rows.append({**dict.fromkeys(rows[0], "-"), **published.row()})
    tables: dict[str, list[Row]] = {"CPU ms per step": rows}
    for title, rows in tables.items():
        print_table(title, rows)
    write_json(arguments.out, tables)


if __name__ == "__main__":
    main()
