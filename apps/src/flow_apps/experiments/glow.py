"""Image flows of invertible convolutions and couplings: Inverse-Flow, FInC, Self Normalizing Flows.

Sources: Nagar et al. 2025 (Inverse-Flow), Kallapa et al. 2023 (FInC Flow), Keller et al. 2021 (Self
Normalizing Flows), Kingma & Dhariwal 2018 (Glow).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from flow_core.dequantization import bits_per_dim
from flow_core.diagnostics import trace_layers
from flow_core.layers import (
    Geco,
    InverseConv2d,
    Reconstruction,
    SelfNormConv2d,
    TrainingSurrogate,
)
from flow_core.models import FlowConfig, image_flow
from flow_core.settings import Settings
from jaxtyping import Float
from torch import Tensor

from flow_apps.experiments.contraction import ContractionConfig
from flow_apps.experiments.image_sets import ImagesConfig
from flow_apps.experiments.integer_images import IntegerImageObjective
from flow_apps.figures.filters import draw_filters
from flow_apps.timing import Timing, time_calls
from flow_apps.training import Batch, TrainingConfig, require

_PICTURES = 36
_TRACED = 16
_CALLS = 10


@dataclass(frozen=True, kw_only=True)
class SelfNormConfig:
    """How self-normalizing layers are trained; without meaning for other flows.

    Attributes:
        surrogate: Whether on gradients without determinants, else on the exact ones.
        reconstruction: Whose error keeps the approximate inverses close, see `TrainingSurrogate`.
        reconstruction_weight: λ, the weight of that error; 0 for none.
        geco_rate: How quickly weights follow errors, see `Geco`; None for a constant weight.
        geco_tolerance: Squared error of an image, per layer, at which weights stay as they are.
        geco_memory: Decay of the moving average of the errors.
        approximate_samples: Whether samples by approximate inverses are drawn beside exact ones.
    """

    surrogate: bool = True
    reconstruction: Reconstruction = "plain"
    reconstruction_weight: float = 1.0
    geco_rate: float | None = None
    geco_tolerance: float = 1e-3
    geco_memory: float = 0.9
    approximate_samples: bool = False

    def __post_init__(self) -> None:
        weight, rate = self.reconstruction_weight, self.geco_rate
        require(weight >= 0, f"reconstruction_weight: expected 0 or more, got {weight}")
        grows = rate is None or (rate > 0 and weight > 0)
        require(grows, f"geco_rate: expected positive, with a positive weight, got {rate}")


@dataclass(frozen=True, kw_only=True)
class GlowConfig:
    """Images and a flow of them.

    Attributes:
        images: Which images.
        flow: What the flow is made of.
        self_norm: How self-normalizing layers are trained.
        verbose: Whether evaluations log what every layer does to validation images.
        timing: Whether the summary tells how long a forward pass, a training pass and samples take.
        training: Length, optimizer and reporting.
    """

    images: ImagesConfig = field(default_factory=lambda: ImagesConfig(data="mnist"))
    flow: FlowConfig = field(default_factory=FlowConfig)
    self_norm: SelfNormConfig = field(default_factory=SelfNormConfig)
    verbose: bool = False
    timing: bool = False
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(iterations=1000, batch_size=100)
    )

    def __post_init__(self) -> None:
        # Layers of one class share their code, which Dynamo compiles for a few of them only.
        compiled = self.training.compile
        require(not compiled, "compile: expected false, it is of no use for these models")
        surrogate = self.flow.linear == "self-normalizing" and self.self_norm.surrogate
        useless = self.self_norm.geco_rate is not None and not surrogate
        require(not useless, "geco_rate: expected none, without a surrogate there is no weight")


class GlowObjective(IntegerImageObjective):
    """Log-likelihood in nats of integer images, or the surrogate of self-normalizing flows.

    The loss is in nats a sample, as in the papers, whose weights of reconstruction errors and norms
    of clipped gradients mean that.
    """

    def __init__(self, config: GlowConfig) -> None:
        flow = partial(image_flow, config.flow)
        super().__init__(config.images, config.training, ContractionConfig(), flow)
        self.config = config
        layers = sum(isinstance(m, SelfNormConv2d) for m in self.net.modules())
        self.on_surrogate = bool(layers) and config.self_norm.surrogate
        self.geco = self._make_geco(layers) if self.on_surrogate else None
        if not self.on_surrogate:
            self._leave_approximate_inverses()
        self._errors: Tensor | None = None

    def forward(self, batch: Batch) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean negative log-likelihood in nats; of the surrogate, with reconstruction errors."""
        if self.on_surrogate:
            return self._surrogate_loss(batch[0])
        log_prob = self.net(batch[0], using=self.using)
        return -log_prob.mean(), {"bits_per_dim": self.merit(log_prob).mean().detach()}

    def after_optimizer_step(self, step: int) -> None:
        """Let spectral norms and the weights of reconstruction errors follow."""
        super().after_optimizer_step(step)
        if self.geco is not None and self._errors is not None:
            self.geco.update(self._errors)

    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Exact bits per dimension; what it is trained on beside it; layers of validation images.

        Layers are only told if verbose.
        """
        results = super().evaluate(split, step)
        if self.on_surrogate:
            results |= self._surrogate_figures(split)
        if self.config.verbose and split == "validation":
            results |= self._layer_figures()
        return results

    def audit(self) -> Mapping[str, object]:
        """Round trip, certified bounds, and times if asked for."""
        times = {name: asdict(timing) for name, timing in self._timings().items()}
        bounds = {
            name: layer.growth_bound()
            for name, layer in self.bijection.named_modules()
            if isinstance(layer, InverseConv2d)
        }
        figures: dict[str, object] = {"growth_bound": bounds} if bounds else {}
        return {**super().audit(), **figures, **({"timing": times} if times else {})}

    def figures(self, folder: Path, step: int) -> None:
        """Samples, reconstructions and filters; samples by approximate inverses where asked for."""
        super().figures(folder, step)
        if filters := self._filters():
            draw_filters(filters, folder / f"filters_{step:06d}.png")
        if self.on_surrogate and self.config.self_norm.approximate_samples:
            z = self.flow.base.rsample(_PICTURES)
            exact = self.flow.bijection.inverse(z)
            quick = Settings(mode="approximate_inverse")
            approximate = self.flow.bijection.inverse(z, using=quick)
            sheet = torch.cat([exact, approximate])
            self.draw_samples(sheet, folder / f"exact_above_approximate_{step:06d}.png")

    def _filters(self) -> dict[str, Tensor]:
        """The kernels of inverse and of self-normalizing convolutions, by the names of layers."""
        filters: dict[str, Tensor] = {}
        for name, layer in self.bijection.named_modules():
            if isinstance(layer, InverseConv2d):
                filters[name] = layer.taps().weight
            elif isinstance(layer, SelfNormConv2d):
                filters |= {name: layer.weight, f"{name}, inverse": layer.inverse_weight}
        return filters

    def _leave_approximate_inverses(self) -> None:
        """Exact gradients do not reach them, which processes that share gradients must know."""
        for layer in self.net.modules():
            if isinstance(layer, SelfNormConv2d):
                layer.inverse_weight.requires_grad_(False)

    def _make_geco(self, layers: int) -> Geco | None:
        settings = self.config.self_norm
        if settings.geco_rate is None:
            return None
        return Geco(
            layers,
            tolerance=settings.geco_tolerance,
            rate=settings.geco_rate,
            memory=settings.geco_memory,
            initial=settings.reconstruction_weight,
        )

    def _surrogate_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        terms = TrainingSurrogate(self.net, self.config.self_norm.reconstruction)(images)
        self._errors = terms.reconstruction.detach()
        settings = self.config.self_norm
        weights = settings.reconstruction_weight if self.geco is None else self.geco.weights
        loss = -terms.surrogate.mean() + (weights * terms.reconstruction).sum()
        return loss, {
            "surrogate_bits_per_dim": self.merit(terms.surrogate).mean().detach(),
            "reconstruction": self._errors.mean(),
        }

    def _surrogate_figures(self, split: str) -> dict[str, float]:
        images = self._part(split).take(slice(self.tests.test_batch_size)).to(self._device())
        _, scalars = self._surrogate_loss(images)
        return {name: float(value) for name, value in scalars.items()}

    def _layer_figures(self) -> dict[str, float]:
        """Bits per dimension, reconstruction error and size of every layer, by its name."""
        figures: dict[str, float] = {}
        images = self.points(self.images.validation, _TRACED)
        for name, trace in trace_layers(self.bijection, images).items():
            bits = bits_per_dim(torch.tensor(trace.log_det), self.flow.event_shape)
            figures[f"layer/{name}/bits_per_dim"] = float(bits)
            figures[f"layer/{name}/roundtrip_error"] = trace.roundtrip_error
            figures[f"layer/{name}/largest_output"] = trace.largest_output
        return figures

    def _timings(self) -> dict[str, Timing]:
        """Forward and training passes of a batch, and samples, a batch at once and one by one."""
        if not self.config.timing:
            return {}
        device, size = self._device(), self.config.training.batch_size
        batch = tuple(t.to(device) for t in self.batch(1))
        timed = partial(time_calls, device=device, calls=_CALLS)
        return {
            "forward": timed(lambda: self.net(batch[0]), samples=len(batch[0])),
            "training": timed(lambda: self._gradients(batch), samples=len(batch[0])),
            "sampling": timed(lambda: self.sample(size), samples=size),
            "single_sampling": timed(lambda: self.sample(1), samples=1),
        }

    def _gradients(self, batch: Batch) -> None:
        """A training pass without its optimizer step."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        with torch.enable_grad():
            loss, _ = self.forward(batch)
            torch.autograd.grad(loss, parameters, allow_unused=True)
