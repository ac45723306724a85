"""A training step of the published i-DenseNet, re-implemented with the work that it does.

Every layer normalises its weight in every call, with its norm as one more product; the Jacobian of
a block comes from two reverse passes that keep their graph; after each step, five power iterations
layer by layer. It is the yardstick of `toys.py`: the machine's speed cancels in a ratio to it.

Source: the codes of Perugachi-Diaz et al. 2021 (i-DenseNets) and Ahn et al. 2022 (Monotone Flows).
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COEFF = 0.9
CONCAT_BOUND = 0.98
POWER_ITERATIONS = 5
_CLIPSWISH = 1.1 * 1.004


class SpectralLinear(nn.Linear):
    """W x / max(1, uᵀ W v / coeff) + b."""

    def __init__(self, inputs: int, outputs: int, coeff: float = COEFF) -> None:
        super().__init__(inputs, outputs)
        self.coeff = coeff
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(inputs), dim=0))
        self.update(200)

    @torch.no_grad()
    def update(self, iterations: int) -> None:
        """Power iterations."""
        u, v = cast(Tensor, self.u), cast(Tensor, self.v)
        for _ in range(iterations):
            u.copy_(F.normalize(torch.mv(self.weight, v), dim=0))
            v.copy_(F.normalize(torch.mv(self.weight.T, u), dim=0))

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        u, v = cast(Tensor, self.u), cast(Tensor, self.v)
        sigma = torch.dot(u, torch.mv(self.weight, v))
        factor = torch.max(torch.ones(1), sigma / self.coeff)
        return F.linear(input, self.weight / factor, self.bias)


class CLipSwish(nn.Module):
    """[swish(x), swish(-x)] / 1.1044 with a learnable slope."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        both = torch.cat((x, -x), 1)
        return both * torch.sigmoid(both * F.softplus(self.beta)) / _CLIPSWISH


class DenseLayer(nn.Module):
    """[η₁ x, η₂ φ(W x + b)] with learnable weights."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.linear, self.activation = SpectralLinear(inputs, growth // 2), CLipSwish()
        self.first, self.second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        first, second = F.softplus(self.first) + 0.1, F.softplus(self.second) + 0.1
        norm = torch.sqrt(first**2 + second**2)
        written = self.activation(self.linear(x))
        return torch.cat(
            (CONCAT_BOUND * first / norm * x, CONCAT_BOUND * second / norm * written), 1
        )


class PublishedBlock(nn.Module):
    """x + G(x) and log|det(I + J)| in two dimensions by brute force."""

    def __init__(self, growth: int = 16, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [DenseLayer(2 + i * growth, growth) for i in range(depth)]
        self.net = nn.Sequential(*layers, SpectralLinear(2 + depth * growth, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        if not x.requires_grad:
            x = x.requires_grad_()
        g = self.net(x)
        rows = [torch.autograd.grad(g[:, i].sum(), x, create_graph=True)[0] for i in (0, 1)]
        determinant = (1 + rows[0][:, 0]) * (1 + rows[1][:, 1]) - rows[0][:, 1] * rows[1][:, 0]
        return x + g, determinant.abs().log()


class PublishedTrainer:
    """Ten blocks and the recipe of the paper: Adam, 1e-3, L2 penalty 1e-5."""

    def __init__(self) -> None:
        self.blocks = nn.ModuleList(PublishedBlock() for _ in range(10))
        self.optimizer = torch.optim.Adam(self.blocks.parameters(), lr=1e-3, weight_decay=1e-5)

    def step(self, x: Tensor) -> float:
        """One step; returns the loss in nats."""
        return published_step(self.blocks, self.optimizer, x, POWER_ITERATIONS)


def published_step(
    blocks: nn.ModuleList, optimizer: torch.optim.Optimizer, x: Tensor, power_iterations: int
) -> float:
    """A step of a flow of published blocks, power iterations layer by layer after it.

    Returns:
        The loss in nats.
    """
    optimizer.zero_grad()
    log_det = torch.zeros(len(x))
    for block in blocks:
        x, term = block(x)
        log_det = log_det + term
    loss = (0.5 * x.square().sum(1) + math.log(2 * math.pi) - log_det).mean()
    torch.autograd.backward(loss)
    optimizer.step()
    for module in blocks.modules():
        if isinstance(module, SpectralLinear):
            module.update(power_iterations)
    return float(loss.detach())
