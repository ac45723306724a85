"""Correct use of two packages: every checker must accept it."""

from typing import assert_type

import torch
from flow_core import Chain, DenseNet, Flow, Monotone, Residual, StandardNormal
from flow_solvers import Anderson, FunctionMap, Solution, Tolerance, resolvent
from torch import Tensor


def half_sine(w: Tensor, scale: Tensor) -> Tensor:
    return scale * torch.sin(w)


scale = torch.tensor(0.5, requires_grad=True)
solution = resolvent(
    FunctionMap(half_sine, (scale,)),
    torch.ones(3, 2),
    solver=Anderson(memory=3),
    tolerance=Tolerance(rtol=1e-6),
)
assert_type(solution, Solution)
assert_type(solution.value, Tensor)

block = Monotone(DenseNet(2))
assert_type(block(torch.zeros(3, 2)), tuple[Tensor, Tensor])
assert_type(block.transform(torch.zeros(3, 2)), Tensor)
chain = Chain([block, Residual(DenseNet(2))])
assert_type(chain(torch.zeros(3, 2)), tuple[Tensor, Tensor])

flow = Flow(StandardNormal((2,)), chain)
log_prob = flow.log_prob(torch.zeros(3, 2))
assert_type(log_prob, Tensor)
assert log_prob.shape == (3,)
torch.autograd.backward(log_prob.sum())
assert scale.grad is None
torch.autograd.backward(solution.value.sum())
assert scale.grad is not None
