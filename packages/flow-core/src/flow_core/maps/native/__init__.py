"""Fixed sequences of operations on small CPU tensors as one piece of C, compiled within a second.

Inductor needs tens of seconds for what a small map does in a step: it traces Python, imports
sympy, and has one C++ file with all of ATen's headers compiled per kernel. What is compiled here
has fixed shapes and no branches, so that one run of it tells everything: the operations in their
order, and where in memory each reads and writes. Views cost nothing then, pointwise operations of
one shape become one loop, and the C file needs no header.

What has no rule here raises `UnsupportedError`, and the caller compiles it in another way.
"""

from flow_core.maps.native.errors import FaultyCompilerError, UnsupportedError
from flow_core.maps.native.program import Program, compile_run

__all__ = ["FaultyCompilerError", "Program", "UnsupportedError", "compile_run"]
