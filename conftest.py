"""Settings of the whole suite."""

import torch

# One test process per core: more threads than that only get in each other's way.
torch.set_num_threads(1)
