"""Run the examples of the README that an installed package carries. Usage: readme.py NAME."""

import re
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

name = sys.argv[1]
readme = distribution(name).read_text("METADATA")
assert readme is not None
blocks = re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
assert blocks, f"{name}: expected an example in the README"
for block in blocks:
    # A module of its own, where pickles find the classes of the example.
    example = sys.modules["example"] = ModuleType("example")
    exec(compile(block, f"README of {name}", "exec"), vars(example))

here = Path(sys.prefix).resolve()
for module in list(sys.modules.values()):
    if module.__name__.startswith("flow_"):
        assert module.__file__ is not None, module
        assert here in Path(module.__file__).parents, f"{module} is not of this environment"
