"""A table and a flow of equal blocks."""

from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Literal, TypeAlias

from flow_apps.config import (
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    require,
    require_counts,
    require_spread,
    suggestion,
)
from flow_apps.config.contraction import ContractionConfig
from flow_apps.config.estimation import EstimatorConfig
from flow_apps.config.neighbours import only_with

BlockOfTables: TypeAlias = Literal["implicit", "monotone", "residual"]
NetOfTables: TypeAlias = Literal["dense", "feedforward", "sandwich"]

PUBLISHED_DIMENSIONS = {"power": 6, "gas": 8, "hepmass": 21, "miniboone": 43, "bsds300": 63}
BUNDLED_DIMENSIONS = {"diabetes": 9, "breast_cancer": 30, "wine": 13}
ENDINGS = (".csv", ".npy", ".parquet")

# Rows come within .1 of zero, where what G rounds is more than a millionth of them.
ATOL = 2e-7
_ALL = 10**9


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """A table, how it is divided, and how much of it is used for tests.

    Attributes:
        data: power, gas, hepmass, miniboone or bsds300, as `apps/data.py prepare tabular` leaves
            them; diabetes, breast_cancer or wine, which scikit-learn brings; or the path of a .csv,
            .npy or .parquet file.
        data_root: The folder of the first five.
        verify: content: they must have the published rows and columns; format: any others too.
        columns: Names of the columns of a file, read from it where there are none.
        left_out: Columns of a file, or of scikit-learn, that are not used.
        header: Whether a .csv file has names in its first line; none for seeing whether one of its
            fields is a number.
        validation_fraction: Rows that models are chosen by, of tables that come undivided.
        test_fraction: Rows of the final test, likewise.
        division: Seed of the division of such a table; the seed of a run never moves a row.
        noise: Standard deviation of normal noise that training adds to standardised rows.
        validation_size: Most rows that are evaluated during training.
        test_size: Most rows of the final test.
        test_batch_size: Rows at a time in tests.
    """

    data: str = "diabetes"
    data_root: str = "data"
    verify: Literal["content", "format"] = "content"
    columns: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    header: bool | None = None
    validation_fraction: float = 0.2
    test_fraction: float = 0.2
    division: int = 0
    noise: float = 0.0
    validation_size: int = 10_000
    test_size: int = _ALL
    test_batch_size: int = 1000

    def __post_init__(self) -> None:
        names = (*PUBLISHED_DIMENSIONS, *BUNDLED_DIMENSIONS)
        hint = suggestion(self.data, names) or f"; known: {', '.join(names)}"
        expected = f"a name or a file that ends in {', '.join(ENDINGS)}"
        known = self.is_file or self.data in names
        require(known, f"data: expected {expected}, got {self.data!r}{hint}")
        fixed = self.data in PUBLISHED_DIMENSIONS and bool(self.left_out)
        require(not fixed, f"left_out: {self.data} is used as published, expected none")
        held, final = self.validation_fraction, self.test_fraction
        possible = min(held, final) > 0 and held + final < 1
        require(possible, "validation_fraction, test_fraction: expected two that leave some rows")
        require(self.noise >= 0, f"noise: expected 0 or more, got {self.noise}")
        require(self.division >= 0, f"division: expected 0 or more, got {self.division}")
        require_counts(self, "validation_size", "test_size", "test_batch_size", most=_ALL)
        require_spread(self.test_size)

    @property
    def is_file(self) -> bool:
        """Whether the table is one of a file."""
        return PurePath(self.data).suffix.lower() in ENDINGS

    @property
    def known_dimensions(self) -> int | None:
        """Number of columns as far as the config tells it."""
        if self.is_file:
            return len(self.columns) or None
        left = BUNDLED_DIMENSIONS.get(self.data, 0) - len(self.left_out)
        return PUBLISHED_DIMENSIONS.get(self.data, left)

    @property
    def dimensions(self) -> int:
        """Number of columns.

        Raises:
            ConfigError: If only the file could tell.
        """
        dimensions = self.known_dimensions
        require(dimensions is not None, f"columns: expected the names of those of {self.data}")
        assert dimensions is not None
        require(dimensions > 0, f"left_out: expected a column of {self.data} at least to stay")
        return dimensions

    def with_columns(self, columns: tuple[str, ...]) -> "TableConfig":
        """The same with the names that a file has, where only it tells them."""
        return self if self.known_dimensions else replace(self, columns=columns)


@dataclass(frozen=True, kw_only=True)
class TabularConfig:
    """A table and a flow of equal blocks.

    Attributes:
        table: Which table.
        block: Kind of the blocks; implicit ones have two maps.
        blocks: Number of blocks.
        net: Kind of their maps: dense nets of i-DenseNets, feedforward ones of Implicit Normalizing
            Flows, whose layers are normalised; or sandwich nets, whose Lipschitz constant is
            `contraction.coeff` by construction.
        growth: Channels that every dense layer adds.
        width: Of the hidden layers of feedforward and sandwich nets.
        depth: Hidden layers of a map.
        gain: Where the learned output gains of sandwich nets start: a small one keeps small tables
            from being learned by heart.
        activation: Name of the activation, see `flow_core.lipschitz.ACTIVATIONS`.
        actnorm: Whether layers of activation normalisation are before the blocks and after each.
        contraction: How Lipschitz constants are kept.
        estimator: How log-determinants are had.
        training: Length, optimizers and reporting.
    """

    table: TableConfig = field(default_factory=TableConfig)
    block: BlockOfTables = "monotone"
    blocks: int = 2
    net: NetOfTables = "sandwich"
    growth: int = field(default=32, metadata=only_with(("net", ("dense",)), otherwise=32))
    width: int = field(
        default=64, metadata=only_with(("net", ("feedforward", "sandwich")), otherwise=64)
    )
    depth: int = 2
    gain: float = field(default=0.2, metadata=only_with(("net", ("sandwich",)), otherwise=0.2))
    activation: str = "softplus"
    actnorm: bool = True
    contraction: ContractionConfig = field(
        default_factory=lambda: ContractionConfig(coeff=0.99, learn_concat_from=1, atol=ATOL)
    )
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            iterations=700,
            batch_size=128,
            optimizer=OptimizerConfig(
                name="adamw",
                learning_rate=1e-2,
                options={"betas": (0.9, 0.99)},
                schedule=ScheduleConfig(warmup=20, anneal="cosine"),
            ),
            gradient_clip=5.0,
            evaluate_every=20,
            figures_every=350,
            threads=1,
        )
    )

    def __post_init__(self) -> None:
        require_counts(self, "blocks", most=1000)
        require_counts(self, "depth", most=64)
        require_counts(self, "growth", "width", most=8192)
        require(0 < self.gain < 1, f"gain: expected between 0 and 1, exclusive, got {self.gain}")
        dense, sandwich = self.net == "dense", self.net == "sandwich"
        require(dense or self.growth == 32, "growth: belongs to net=dense; others have a width")
        require(not dense or self.width == 64, "width: a dense net has a growth")
        require(sandwich or self.gain == 0.2, "gain: belongs to net=sandwich")
