"""What processes that train together share, and what they do not."""

import torch
from flow_apps.training.randomness import seed_step


def test_processes_draw_noise_of_their_own_that_follows_from_the_step() -> None:
    def noise(step: int, rank: int) -> torch.Tensor:
        seed_step(0, step, rank, torch.device("cpu"))
        return torch.rand(3)

    with torch.random.fork_rng():
        assert not torch.equal(noise(1, 0), noise(1, 1))
        assert not torch.equal(noise(1, 0), noise(2, 0))
        assert torch.equal(noise(1, 1), noise(1, 1))
