"""What a classifier of images says about samples."""

from dataclasses import dataclass
from pathlib import Path

import torch
from flow_core.events import per_sample_all
from jaxtyping import Float
from torch import Tensor

from flow_apps.config import from_json
from flow_apps.config.images import ImagesConfig
from flow_apps.errors import ConfigError
from flow_apps.experiments.classify import CLASSIFY
from flow_apps.experiments.classify.config import ClassifyConfig
from flow_apps.identity import fingerprint
from flow_apps.parts.classification import Classifier
from flow_apps.training import RunFolder, load_checkpoint, load_model, require_state

Samples = Float[Tensor, "count channels height width"]


@dataclass(frozen=True)
class Judge:
    """How many samples look like something, and whether all classes are there.

    Attributes:
        classifier: Gives logits of images in [0, 1].
        confidence: Probability of the likeliest class from which on it is confident.
    """

    classifier: Classifier
    confidence: float

    def verdicts(self, samples: Samples) -> Float[Tensor, "count 2"]:
        """The likeliest class of every sample and its probability; NaN where it is not finite."""
        finite = per_sample_all(samples.isfinite())
        found = samples.new_full((len(samples), 2), torch.nan)
        if finite.any():
            likely = self.classifier(samples[finite].float()).softmax(1).max(1)
            found[finite] = torch.stack([likely.indices, likely.values], 1).to(found.dtype)
        return found

    def figures(self, verdicts: Float[Tensor, "count 2"]) -> dict[str, float]:
        """The share of all samples that it is confident of, and the entropy of classes in nats.

        Classes are those of finite samples, confident or not; where there is none, there is no
        entropy.
        """
        classes, probabilities = verdicts.unbind(1)
        found = {"confident": float((probabilities >= self.confidence).double().mean())}
        counted = torch.bincount(classes[classes.isfinite()].long()).double()
        if counted.sum():
            shares = counted[counted > 0] / counted.sum()
            found["class_entropy"] = float(-(shares * shares.log()).sum())
        return found


def load_judge(folder: str, images: ImagesConfig, confidence: float, device: torch.device) -> Judge:
    """The network of a run of `classify`, with the weights that were best on validation.

    Raises:
        RunFolderError: If there is no such run.
        ConfigError: If it is a run of another experiment, or of images of another shape.
        CheckpointError: If its weights are missing or damaged.
    """
    run = RunFolder.open(Path(folder))
    description = run.description()
    name = description["experiment"]
    if name != CLASSIFY.name:
        raise ConfigError(f"judge: expected the folder of a run of {CLASSIFY.name}, got {name}")
    config: ClassifyConfig = from_json(ClassifyConfig, description["config"])
    told, asked = config.images.image_shape, images.image_shape
    if told != asked:
        raise ConfigError(f"judge: expected a classifier of images {asked}, got one of {told}")
    best = run.checkpoints.best
    source = best if best.exists() else run.checkpoints.newest()
    state = load_checkpoint(source, device)
    require_state(state, source, fingerprint(CLASSIFY, description["config"]))
    classifier: Classifier = CLASSIFY.load().model(config).to(device)
    load_model(classifier, state, source)
    return Judge(classifier.eval(), confidence)
