"""Training points of a function."""

from flow_data import Share
from flow_data.functions import sample_target

from flow_apps.experiments.fit1d.config import Fit1dConfig
from flow_apps.training import Batch
from flow_apps.training.randomness import generator


class Fit1dBatches:
    """Fresh points of every step."""

    def __init__(self, config: Fit1dConfig) -> None:
        self.config = config

    def batch(self, step: int, share: Share) -> Batch:
        """A function of seed and step."""
        training = self.config.training
        source = generator(training.seed, "training points", step)
        x, y = sample_target(self.config.target, training.batch_size, source)
        return Batch(share.of(x), share.of(y))
