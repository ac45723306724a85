"""How contractions stay contractions while they are trained."""

from collections.abc import Iterator

from flow_core.lipschitz import lipschitz_certificate, repair_lipschitz, update_lipschitz
from flow_core.maps import DenseNet
from torch import nn

from flow_apps.config.contraction import ContractionConfig
from flow_apps.errors import TrainingFailure
from flow_apps.training import Certificate, Upkeep


class LipschitzUpkeep(Upkeep):
    """Keeps the Lipschitz constants of a model where it has any.

    Args:
        model: What is trained.
        config: How often and how well spectral norms are followed.
    """

    def __init__(self, model: nn.Module, config: ContractionConfig) -> None:
        self.model = model
        self.config = config

    def before_optimizer_step(self, step: int) -> None:
        """Let the weights of concatenations rest until their time comes."""
        if step < self.config.learn_concat_from:
            for net in self._dense_nets():
                net.concat.grad = None

    def after_optimizer_step(self, step: int) -> None:
        """Let the singular vectors follow the weights."""
        update_lipschitz(self.model, self.config.power_iterations)

    def prepare_test(self) -> None:
        """Know spectral norms well before a test."""
        update_lipschitz(self.model, self.config.test_power_iterations)

    def certify(self) -> Certificate:
        """Prove a bound of every map, and scale those down whose bound is not below 1.

        Raises:
            TrainingFailure: If a map has no bound below 1 whatever its scale.
        """
        try:
            bounds = lipschitz_certificate(self.model)
            lost = {name: bound for name, bound in bounds.items() if not bound < 1}
            if lost:
                repair_lipschitz(self.model)
                bounds = lipschitz_certificate(self.model)
        except ValueError as error:
            raise TrainingFailure(f"no certificate for these weights: {error}") from error
        return Certificate(bounds, lost)

    def _dense_nets(self) -> Iterator[DenseNet]:
        return (module for module in self.model.modules() if isinstance(module, DenseNet))
