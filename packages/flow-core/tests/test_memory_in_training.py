"""Passes that keep no activations in training: blocks, contexts, reports, heads, processes."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from flow_core import (
    AffineCoupling,
    Bijection,
    Chain,
    Checkpointed,
    DenseNet,
    DriftError,
    FeedForwardNet,
    Flow,
    Implicit,
    Landmark,
    MemoryPolicy,
    MemorySaving,
    Monotone,
    Permutation,
    Residual,
    Reversible,
    Settings,
    Solve,
    StandardNormal,
    inverse_residual,
    record,
    update_lipschitz,
)
from flow_core.layers.landmark import Sightings
from flow_core.passes import Pass
from flow_logdet import Estimator, Exact, Krylov, Recompute
from flow_solvers import Tolerance
from torch import Tensor, nn

POLICIES: dict[str, MemoryPolicy] = {"checkpointed": Checkpointed(), "reversible": Reversible()}


def net(**settings: Any) -> DenseNet:
    return DenseNet(6, growth=8, depth=2, coeff=0.8, **settings)


BLOCKS: dict[str, Callable[[], Bijection]] = {
    "residual": lambda: Residual(net()),
    "resolvent": lambda: inverse_residual(net()),
    "monotone": lambda: Monotone(net()),
    "implicit": lambda: Implicit(net(), FeedForwardNet(6, [8])),
    "dropout": lambda: Implicit(FeedForwardNet(6, [8], dropout=0.3), FeedForwardNet(6, [8])),
    "context": lambda: Monotone(net(context_features=3)),
    "coupling": lambda: AffineCoupling.dense(6, 8, context_features=3),
}


def stack(kind: str, count: int = 3) -> Chain:
    torch.manual_seed(0)
    chain = Chain([BLOCKS[kind]() for _ in range(count)])
    for p in chain.parameters():
        p.data += 0.1 * torch.randn_like(p)
    update_lipschitz(chain, 100)
    return chain


def gradients(model: nn.Module, x: Tensor, context: Tensor | None, using: Settings) -> list[Tensor]:
    """Outputs, and gradients to input, context and parameters."""
    torch.manual_seed(5)
    leaves = [t.clone().requires_grad_() for t in (x, context) if t is not None]
    y, log_det = model(leaves[0], context=leaves[1] if context is not None else None, using=using)
    loss = y.sin().sum() + (log_det * torch.arange(1, len(y) + 1)).sum()
    inputs = [*leaves, *model.parameters()]
    found = torch.autograd.grad(loss, inputs, materialize_grads=True)
    return [t.detach() for t in (y, log_det, *found)]


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest, relative to the largest number of all gradients."""
    scale = max(float(t.abs().max()) for t in expected)
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs) / scale


@pytest.mark.parametrize(
    ("policy", "double"), [("reversible", False), ("reversible", True), ("checkpointed", True)]
)
@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients_of_blocks_and_contexts(kind: str, policy: str, double: bool) -> None:
    chain, dtype = stack(kind), torch.float64 if double else torch.float32
    x, context = torch.randn(5, 6).to(dtype), torch.randn(5, 3).to(dtype)
    solve = Solve(tolerance=Tolerance(rtol=1e-13 if double else 1e-6))
    run = partial(gradients, chain.to(dtype), x, context if chain.uses_context else None)
    settings = (
        Settings(estimator=Krylov(steps=4), solve=solve, memory=memory)
        for memory in (POLICIES[policy], None)
    )
    found, expected = map(run, settings)
    assert difference(found, expected) < (1e-10 if double else 1e-5)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_computed_again_is_told_once(policy: str) -> None:
    chain, x = stack("monotone"), torch.randn(5, 6)
    counts: list[list[int]] = []
    for memory in (None, POLICIES[policy]):
        with record(chain) as report:
            y, log_det = chain(x, using=Settings(memory=memory))
            torch.autograd.backward(y.sum() + log_det.sum())
        told = (report.solutions, report.log_dets, report.derivatives)
        counts.append([len(kind[f"layers.{i}"]) for kind in told for i in range(3)])
    assert counts[0] == counts[1] == [1] * 9


@pytest.mark.parametrize("policy", [Reversible(), None], ids=["reversible", "stored"])
@pytest.mark.parametrize("estimator", [Krylov(), Exact(), Recompute(Krylov())], ids=repr)
def test_of_blocks_stays_nothing_that_grows_with_the_batch(
    estimator: Estimator, policy: MemoryPolicy | None
) -> None:
    """Probes, records and factors of a solve are among what a policy has forgotten."""
    torch.manual_seed(0)
    chain = Chain([Monotone(DenseNet(24, growth=8, depth=2)) for _ in range(3)])
    update_lipschitz(chain, 20)
    using = Settings(estimator=estimator, memory=policy)

    def kept(samples: int) -> int:
        """Bytes that a forward pass leaves behind."""
        x = torch.randn(samples, 24).requires_grad_()
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            passed = chain(x, using=using)
        events = cast(Any, profile).kineto_results.events()
        assert passed[0].requires_grad
        return sum(e.nbytes() for e in events if e.name() == "[memory]")

    # Of a sample stay what the chain returns, log-determinants, and fingerprints of the inputs.
    of_sample = (kept(72) - kept(8)) / 64
    assert (of_sample < 400) == (policy is not None), (of_sample, policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_heads_at_landmarks_send_gradients_through(policy: str) -> None:
    blocks = list(stack("coupling"))[:2]
    chain = Chain([blocks[0], Landmark("middle", (6,)), Permutation.reversal(6), blocks[1]])
    x, context = torch.randn(5, 6), torch.randn(5, 3)
    found: list[list[Tensor]] = []
    for memory in (None, POLICIES[policy]):
        seen = Sightings()
        y, _ = chain(x, how=Pass(Settings(memory=memory), context, collector=seen))
        loss = seen.take()["middle"].square().sum() + y.sin().sum()
        found.append(list(torch.autograd.grad(loss, list(chain.parameters()))))
    assert difference(*reversed(found)) < 1e-5


@pytest.mark.parametrize("policy", POLICIES)
def test_samples_are_trained_through_as_well(policy: str) -> None:
    flow = Flow(StandardNormal((6,)), stack("residual"))
    found: list[list[Tensor]] = []
    for memory in (None, POLICIES[policy]):
        torch.manual_seed(1)
        x, log_prob = flow.rsample_and_log_prob((5,), using=Settings(memory=memory))
        loss = x.sin().sum() + log_prob.sum()
        found.append(list(torch.autograd.grad(loss, list(flow.parameters()))))
    assert difference(*reversed(found)) < 1e-5


# Modules of others


class Stranger(nn.Module):
    """A coupling with dropout, that knows nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Dropout(0.3), nn.Linear(64, 3))

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return torch.cat([right + self.net(left) + shift, left], 1)

    def inverse(self, y: Tensor, shift: Tensor) -> Tensor:
        moved, left = y.chunk(2, 1)
        return torch.cat([left, moved - self.net(left) - shift], 1)


@pytest.mark.parametrize(
    ("policy", "half"), [("checkpointed", False), ("checkpointed", True), ("reversible", False)]
)
def test_modules_of_others_need_an_inverse_and_nothing_else(policy: str, half: bool) -> None:
    torch.manual_seed(0)
    layers = [Stranger() for _ in range(6)]
    saving, plain = MemorySaving(layers, POLICIES[policy]), nn.ModuleList(layers)
    x, shift = torch.randn(50, 6), torch.randn(50, 3)

    def one_by_one(x: Tensor, shift: Tensor) -> Tensor:
        for layer in plain:
            x = layer(x, shift)
        return x

    found: list[list[Tensor]] = []
    for run in (one_by_one, saving):
        torch.manual_seed(1)
        leaves = [x.clone().requires_grad_(), shift.clone().requires_grad_()]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            y = run(*leaves)
        inputs = [*leaves, *plain.parameters()]
        found.append([y.detach(), *torch.autograd.grad(y.sin().sum(), inputs)])
    assert difference(found[1], found[0]) < 1e-5
    assert list(saving.state_dict()) == list(nn.Sequential(*layers).state_dict())
    with torch.no_grad():
        assert saving.eval()(x, shift).shape == x.shape


@pytest.mark.parametrize("policy", POLICIES)
def test_a_module_that_comes_twice_is_called_twice(policy: str) -> None:
    layer, x, shift = Stranger().eval(), torch.randn(5, 6), torch.randn(5, 3)
    saving, inputs = MemorySaving([layer, layer], POLICIES[policy]), list(layer.parameters())
    y, expected = saving(x, shift), layer(layer(x, shift), shift)
    found, wanted = (list(torch.autograd.grad(z.sin().sum(), inputs)) for z in (y, expected))
    assert difference(found, wanted) < 1e-5
    with torch.no_grad():
        assert torch.equal(saving(x, shift), expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_context_that_was_changed_in_place_is_an_error(policy: str) -> None:
    coupling = AffineCoupling.dense(4, 8, context_features=3)
    x, context = torch.randn(5, 4), torch.randn(5, 3)
    y, _ = Chain([coupling])(x, context=context, using=Settings(memory=POLICIES[policy]))
    shift = torch.randn(5, 3)
    moved = MemorySaving([Stranger()], POLICIES[policy])(torch.randn(5, 6), shift)
    for output, beside in ((y, context), (moved, shift)):
        beside.mul_(2)
        with pytest.raises(RuntimeError, match="expected the context of the forward pass"):
            torch.autograd.backward(output.sum())


def test_an_output_that_autocast_has_rounded_tells_no_input() -> None:
    saving = MemorySaving([Stranger() for _ in range(3)], Reversible())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = saving(torch.randn(50, 6), torch.randn(50, 3))
    with pytest.raises(DriftError, match="expected the inverse of"):
        torch.autograd.backward(y.sum())


def test_modules_without_an_inverse_can_be_checkpointed_alone() -> None:
    layers = [nn.Linear(3, 3), nn.Tanh()]
    with pytest.raises(TypeError, match="expected modules with an inverse, got Linear without"):
        MemorySaving(layers, Reversible())
    torch.autograd.backward(MemorySaving(layers, Checkpointed(2))(torch.randn(4, 3)).sum())
    assert layers[0].weight.grad is not None


# Processes


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore")
def test_sharded_layers_are_whole_where_they_are_computed_again() -> None:
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415  # imports Dynamo

    chain, x = stack("monotone").double(), torch.randn(5, 6).double()
    using = Settings(estimator=Krylov(steps=4), memory=Reversible())
    expected = gradients(chain, x, None, using)
    for layer in chain:
        fully_shard(layer)
    fully_shard(chain)
    torch.manual_seed(5)
    point = x.clone().requires_grad_()
    y, log_det = chain(point, using=using)
    torch.autograd.backward(y.sin().sum() + (log_det * torch.arange(1, 6)).sum())
    leaves = [cast(Any, p.grad).full_tensor() for p in chain.parameters()]
    grads = [cast(Tensor, point.grad), *leaves]
    assert difference([y, log_det, *grads], expected) < 1e-9


RANK_SCRIPT = """
import sys
import torch
import torch.distributed as dist
from flow_core import Chain, Monotone, DenseNet, AffineCoupling, Settings, Reversible, Checkpointed
from torch import nn
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
chain, x = torch.load(f"{folder}/model.pt", weights_only=False)
parallel = nn.parallel.DistributedDataParallel(chain)
for name, memory in (("checkpointed", Checkpointed()), ("reversible", Reversible())):
    chain.zero_grad()
    y, log_det = parallel(x[4 * rank : 4 * rank + 4], using=Settings(memory=memory))
    torch.autograd.backward(y.sin().sum() + log_det.sum())
    torch.save([p.grad for p in chain.parameters()], f"{folder}/{name}{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    parts = [*stack("monotone", 2), AffineCoupling.dense(6, 8)]
    chain, x = Chain(parts).double().eval(), torch.randn(8, 6).double()
    torch.save((chain, x), tmp_path / "model.pt")
    command = [sys.executable, "-c", RANK_SCRIPT]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    y, log_det = chain(x)
    loss = (y.sin().sum() + log_det.sum()) / 2
    expected = list(torch.autograd.grad(loss, list(chain.parameters())))
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    for policy in POLICIES:
        for rank in range(2):
            found = torch.load(tmp_path / f"{policy}{rank}.pt", weights_only=True)
            assert difference(found, expected) < 1e-9
