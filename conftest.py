"""Settings of the whole suite."""

import pytest
import torch

# One test process per core: more threads than that only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_noise() -> None:
    """A test draws the same numbers wherever in the suite it runs."""
    torch.manual_seed(0)
