"""A training step of the published Implicit Normalizing Flow, re-implemented with its work.

The weights of both nets are copied in every call, and their layers normalise them in every
evaluation. Broyden's method solves from zero, see `published_solvers.py`; one evaluation of both
nets carries the graph of the parameters, and a node behind it solves the adjoint system in the
backward pass. The Jacobians of both nets come from reverse passes that keep their graph; after each
step come twenty power iterations, of the layers and of those of the copies. It is the yardstick of
`toys.py` for this kind of flow. The collection of garbage in every published step is left out.

Source: the code of Lu et al. 2021 (Implicit Normalizing Flows).
"""
# ruff: noqa: ANN401  (torch gives the context of a Function no type)

import copy
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from benchmarks.published_solvers import implicit_flow_broyden, implicit_flow_forward
from benchmarks.published_step import SpectralLinear, published_step

COEFF = 0.99
POWER_ITERATIONS = 20
EPS_FORWARD, EPS_BACKWARD = 1e-6, 1e-10
_ZERO_INIT = 1000


class Sine(nn.Module):
    """sin(2πx) / 2π."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.sin(2 * math.pi * x) / (2 * math.pi)


def sine_net(widths: tuple[int, ...] = (128, 128)) -> nn.Sequential:
    """A net of two numbers whose last layer starts near zero."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((2, *widths), widths, strict=False):
        layers += [SpectralLinear(inputs, outputs, COEFF), Sine()]
    last = SpectralLinear(widths[-1], 2, COEFF)
    last.weight.data /= _ZERO_INIT
    return nn.Sequential(*layers, last)


class _Backward(Function):
    """The identity of z, whose backward pass solves w (I + J_z) = v and tells x too."""

    @staticmethod
    def forward(ctx: Any, g_z: nn.Module, g_x: nn.Module, z: Tensor, x: Tensor) -> Tensor:
        ctx.nets = g_z, g_x
        ctx.save_for_backward(z, x)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, None, Tensor, Tensor]:
        (v,), (g_z, g_x) = cotangents, ctx.nets
        z, x = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with torch.enable_grad():
            at_z, at_x = g_z(z) + z, g_x(x) + x

        def residual(w: Tensor) -> Tensor:
            """What w (I + J_z) = v leaves."""
            product: Tensor = torch.autograd.grad(at_z, z, w, retain_graph=True)[0]
            return product - v

        w, _ = implicit_flow_broyden(residual, v, EPS_BACKWARD)
        return None, None, w, torch.autograd.grad(at_x, x, w)[0]


class PublishedImplicitBlock(nn.Module):
    """z + G_z(z) = x + G_x(x) and its log-determinant by brute force."""

    def __init__(self) -> None:
        super().__init__()
        self.g_x, self.g_z = sine_net(), sine_net()
        self.copies = nn.ModuleList((_frozen_copy(self.g_x), _frozen_copy(self.g_z)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        for own, made in zip((self.g_x, self.g_z), self.copies, strict=True):
            made.load_state_dict(own.state_dict())
        with torch.no_grad():
            z = implicit_flow_forward(self.g_z, self.g_x(x) + x, EPS_FORWARD)
        x = x if x.requires_grad else x.requires_grad_()
        near = self.g_x(x.detach()) - self.g_z(z.detach()) + x.detach()
        x_copy, z_copy = self.copies
        solved = cast(Tensor, _Backward.apply(z_copy, x_copy, near, x))
        return solved, _log_det(self.g_x, x) - _log_det(self.g_z, solved)


def _frozen_copy(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).requires_grad_(False)


def _log_det(net: nn.Module, x: Tensor) -> Tensor:
    value = net(x)
    rows = [torch.autograd.grad(value[:, i].sum(), x, create_graph=True)[0] for i in (0, 1)]
    determinant = (1 + rows[0][:, 0]) * (1 + rows[1][:, 1]) - rows[0][:, 1] * rows[1][:, 0]
    return determinant.log()


class PublishedImplicitTrainer:
    """Six blocks and the recipe of the paper: Adam, 1e-3."""

    def __init__(self) -> None:
        self.blocks = nn.ModuleList(PublishedImplicitBlock() for _ in range(6))
        learned = [p for p in self.blocks.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learned, lr=1e-3)

    def step(self, x: Tensor) -> float:
        """One step; returns the loss in nats."""
        return published_step(self.blocks, self.optimizer, x, POWER_ITERATIONS)
