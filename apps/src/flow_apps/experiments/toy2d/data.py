"""Training points of a two-dimensional density."""

from flow_data import Share
from flow_data.toy import sample_toy

from flow_apps.experiments.toy2d.config import Toy2dConfig
from flow_apps.training import Batch
from flow_apps.training.randomness import generator


class Toy2dBatches:
    """Fresh points of every step."""

    def __init__(self, config: Toy2dConfig) -> None:
        self.config = config

    def batch(self, step: int, share: Share) -> Batch:
        """A function of seed and step."""
        training = self.config.training
        source = generator(training.seed, "training points", step)
        points = sample_toy(self.config.density, training.batch_size, generator=source)
        return Batch(share.of(points))
