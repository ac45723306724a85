"""Six mistakes that every checker must catch; the line after each marker is wrong."""

import torch
from flow_core import Chain, DenseNet, Monotone
from flow_solvers import Anderson, FunctionMap, resolvent

block = Monotone(DenseNet(2))
x = torch.zeros(3, 2)
# planted: wrong type of a constructor argument
Anderson(memory="five")
# planted: wrong type of a result
log_det: str = block(x)[1]
# planted: not a callable
FunctionMap(3)
# planted: positional argument for a keyword
resolvent(FunctionMap(torch.sin), x, Anderson())
# planted: unknown keyword
Chain([block]).transform(x, conditioning=x)
# planted: wrong number of results
y, first, second = block(x)
