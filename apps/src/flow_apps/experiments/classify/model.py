"""The network that tells classes."""

from collections.abc import Callable

import torch
from flow_core.models import (
    ContractiveConfig,
    ContractiveResNet,
    FlowClassifier,
    ResNetConfig,
    image_flow,
    scale_heads,
)

from flow_apps.experiments.classify.config import ClassifyConfig, NetworkName
from flow_apps.parts.classification import Classifier
from flow_apps.parts.digit_classifier import DigitClassifier
from flow_apps.parts.settings import follow_spectra, solve
from flow_apps.training.randomness import derive_seed

_USUAL_MOMENTUM = 0.1


def build_model(config: ClassifyConfig) -> Classifier:
    """The network of a config, initialised from its seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.training.seed, "model"))
        model = _MAKERS[config.network](config)
    follow_spectra(model, config.contraction)
    return model


def _flow(config: ClassifyConfig) -> FlowClassifier:
    """A flow with heads on its scales."""
    assert config.block != "plain"  # the config has refused it
    made = ContractiveConfig(
        block=config.block,
        scales=config.scales,
        growth=config.growth,
        depth=config.depth,
        activation=config.activation,
        dense_blocks=0,
        coeff=config.contraction.coeff,
        concat_bound=config.contraction.concat_bound,
        mean=config.mean,
        std=config.std,
        landmarks=True,
    )
    classes, solves = config.heads.classes_of(config.images), solve(config.contraction)
    bijection = image_flow(made, config.images.image_shape, solve=solves).bijection
    return FlowClassifier(bijection, scale_heads(bijection, classes, config.heads.channels))


def _resnet(config: ClassifyConfig) -> ContractiveResNet:
    """Statistics of its batch normalisations are averaged like the weights that are tested."""
    assert config.block != "monotone"  # the config has refused it
    decay = config.training.ema_decay
    made = ResNetConfig(
        block=config.block,
        widths=config.widths,
        classes=config.heads.classes_of(config.images),
        coeff=config.contraction.coeff,
        momentum=_USUAL_MOMENTUM if decay is None else 1 - decay,
    )
    return ContractiveResNet(made, config.images.image_shape, solve=solve(config.contraction))


def _cnn(config: ClassifyConfig) -> DigitClassifier:
    """The one that judges samples."""
    classes = config.heads.classes_of(config.images)
    return DigitClassifier(config.images.image_shape, classes, mean=config.mean, std=config.std)


_MAKERS: dict[NetworkName, Callable[[ClassifyConfig], Classifier]] = {
    "flow": _flow,
    "resnet": _resnet,
    "cnn": _cnn,
}
