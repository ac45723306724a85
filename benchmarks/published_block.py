"""A monotone block on images as published, re-implemented with all that it does.

Its weights are normalised in every call of the net, the log-determinant comes from twelve products
with an explicit linearized net and one reverse pass that keeps its graph, the adjoint is solved by
reverse passes over yet another graph. It is the yardstick of `blocks.py`: the machine's speed
cancels in a ratio to it.

Source: the code of Ahn et al. 2022 (Monotone Flows), `iresblock.py` and `solvers.py`, training with
the Neumann gradient, 10 exact terms and a roulette of 2 more.
"""
# ruff: noqa: ANN401  (torch gives the context of a Function no type)

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from benchmarks.published_solvers import monotone_flow_anderson

COEFF = 0.98
TERMS = 12
SQRT2 = math.sqrt(2)


def pila(x: Tensor) -> Tensor:
    """x where it is positive, (12.5 x³ - 5 x² + x) exp(5x) below."""
    t = torch.where(x > 0, 0.0, x)
    return torch.where(x > 0, x, (12.5 * t**3 - 5 * t**2 + t) * torch.exp(5 * t))


def pila_slope(x: Tensor) -> Tensor:
    """Its derivative."""
    t = torch.where(x > 0, 0.0, x)
    return torch.where(x > 0, 1.0, (62.5 * t**3 + 12.5 * t**2 - 5 * t + 1) * torch.exp(5 * t))


def cpila(x: Tensor) -> Tensor:
    """Both directions of Pila."""
    return torch.cat((pila(x - 0.2), pila(-x - 0.2)), 1) / 1.06


class NormalisedConv(nn.Conv2d):
    """W x / max(1, σ/coeff), with σ = ⟨u, W v⟩, one more convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, size: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.register_buffer("u", torch.zeros(1, outputs, size, size))
        self.register_buffer("v", torch.randn(1, inputs, size, size))
        self.update(50)

    @torch.no_grad()
    def update(self, iterations: int) -> None:
        """Power iterations."""
        u, v = cast(Tensor, self.u), cast(Tensor, self.v)
        for _ in range(iterations):
            pushed = F.conv2d(v, self.weight, padding=self.padding)
            u.copy_(pushed / pushed.norm())
            pulled = F.conv_transpose2d(u, self.weight, padding=self.padding)  # type: ignore[arg-type]  # of this layer a pair of integers
            v.copy_(pulled / pulled.norm())

    def effective(self) -> Tensor:
        """The normalised weight."""
        u, v = cast(Tensor, self.u), cast(Tensor, self.v)
        sigma = (u * F.conv2d(v, self.weight, padding=self.padding)).sum()
        return self.weight / torch.max(torch.ones(1), sigma / COEFF)


class PublishedMonotoneBlock(nn.Module):
    """w + G(w) = √2·x, y = √2·w - x, with the Neumann surrogate of its log-determinant."""

    def __init__(self, channels: int, growth: int, depth: int, size: int) -> None:
        super().__init__()
        widths = [channels + growth * i for i in range(depth + 1)]
        self.layers = nn.ModuleList(NormalisedConv(w, growth // 2, 3, size) for w in widths[:-1])
        self.last = NormalisedConv(widths[-1], channels, 1, size)
        self.mixing = nn.Parameter(torch.full((depth, 2), math.sqrt(0.5) * 0.98))

    def convolutions(self) -> list[NormalisedConv]:
        """All layers, the last one too."""
        return [*(cast(NormalisedConv, layer) for layer in self.layers), self.last]

    def weights(self) -> list[Tensor]:
        """Normalised, computed anew."""
        return [layer.effective() for layer in self.convolutions()]

    def g(self, w: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """G(w), and what the activations get."""
        h, made = w, list[Tensor]()
        for i, layer in enumerate(self.convolutions()[:-1]):
            made.append(F.conv2d(h, weights[i], layer.bias, padding=1))
            h = torch.cat((self.mixing[i, 0] * h, self.mixing[i, 1] * cpila(made[-1])), 1)
        return F.conv2d(h, weights[-1], self.last.bias), made

    def jvp(self, t: Tensor, weights: list[Tensor], slopes: list[Tensor]) -> Tensor:
        """J t by the linearized net."""
        for i, slope in enumerate(slopes):
            written = slope * F.conv2d(t, weights[i], padding=1).repeat(1, 2, 1, 1)
            t = torch.cat((self.mixing[i, 0] * t, self.mixing[i, 1] * written), 1)
        return F.conv2d(t, weights[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the surrogate."""
        with torch.no_grad():
            clone = self.weights()
            start = SQRT2 * x.detach()
            root = monotone_flow_anderson(lambda w: start - self.g(w, clone)[0], start, 1e-6, 2000)
        proxy = start - self.g(root, self.weights())[0]

        def solve_adjoint(along: Tensor) -> Tensor:
            with torch.enable_grad():
                point = root.detach().requires_grad_()
                image = self.g(point, clone)[0]

            def step(h: Tensor) -> Tensor:
                return along - torch.autograd.grad(image, point, h, retain_graph=True)[0]

            return monotone_flow_anderson(step, along, 1e-9, 100)

        w = cast(Tensor, _Implicit.apply(solve_adjoint, proxy, SQRT2 * x))
        return SQRT2 * w - x, self._surrogate(w)

    def _surrogate(self, w: Tensor) -> Tensor:
        """⟨Jᵀε, s⟩ with s = -2 Σ J^{2k} ε, whose gradient is that of the log-determinant."""
        probe, weights = torch.randn_like(w), self.weights()
        image, made = self.g(w, weights)
        with torch.no_grad():
            slopes = [
                torch.cat((pila_slope(a - 0.2), -pila_slope(-a - 0.2)), 1) / 1.06 for a in made
            ]
            total, power = -2 * probe, probe
            for k in range(1, TERMS + 1):
                power = self.jvp(power, weights, slopes)
                total = total - 2 * power if k % 2 == 0 else total
        (pulled,) = torch.autograd.grad(image, w, probe, create_graph=True)
        return (pulled * total).flatten(1).sum(1)


class _Implicit(Function):
    @staticmethod
    def forward(ctx: Any, solve: Callable[[Tensor], Tensor], proxy: Tensor, x: Tensor) -> Tensor:
        ctx.solve = solve
        return proxy.view_as(proxy)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, Tensor]:
        with torch.no_grad():
            solved = ctx.solve(grad_outputs[0])
        return None, solved, solved
