"""What is to be measured on which sets of images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flow_core.diagnostics import DenseSpectrum, LanczosSpectrum, Spectrum

from flow_apps.errors import ConfigError
from flow_apps.loading import Choice


@dataclass(frozen=True, kw_only=True)
class OutliersRequest:
    """What is to be measured.

    Attributes:
        sets: Names of sets, see `flow_apps.outliers.sets`.
        images: Of every set, spread over it.
        batch_size: Images at a time; no image's result depends on it.
        trips: Round trips one after another of the second pixel error.
        jacobians: Of how many images of every set singular values are found; 0 for none.
        spectrum: How; auto as `flow_core.diagnostics.stability_report` has it.
        log_dets: Where log-determinants are estimates: those of evaluations while a run goes on,
            one probe, or those of its final test.
        rtol: Relative tolerance of solves; None for that of the model.
        pictures: Images of every set on the sheet.
        seed: Of noise, of dequantisation and of sets of noise; the same for all models.
        checkpoint: Which weights of runs.
        device: As torch writes it.
        data_root: Where sets are by their names, and the images of runs; None for `data`, and for
            where they were.
        out: Folder for the files; None for `ood/` in that of the one model.
    """

    sets: tuple[str, ...]
    images: int = 512
    batch_size: int = 32
    trips: int = 9
    jacobians: int = 1
    spectrum: Literal["auto", "dense", "lanczos"] = "auto"
    log_dets: Literal["validation", "test"] = "validation"
    rtol: float | None = None
    pictures: int = 8
    seed: int = 0
    checkpoint: Choice = "last"
    device: str = "cpu"
    data_root: str | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        if not self.sets:
            raise ConfigError("sets: expected at least one, got none; give --sets own,gaussian")
        if len(set(self.sets)) < len(self.sets):
            raise ConfigError(f"sets: expected each once, got {', '.join(self.sets)}")
        least = {"images": 1, "batch_size": 1, "trips": 1, "jacobians": 0, "pictures": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value < smallest:
                raise ConfigError(f"{name}: expected an integer from {smallest} on, got {value}")
        if self.rtol is not None and not 0 < self.rtol < 1:
            raise ConfigError(f"rtol: expected between 0 and 1, got {self.rtol}")

    @property
    def singular_values(self) -> Spectrum | None:
        """How singular values are found; None to choose by the model."""
        return {"auto": None, "dense": DenseSpectrum(), "lanczos": LanczosSpectrum()}[self.spectrum]
