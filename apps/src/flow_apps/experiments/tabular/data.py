"""The tables that configs name, and batches of their rows."""

from functools import lru_cache

import torch
from flow_data import (
    BUNDLED_TABLES,
    DataError,
    Share,
    Table,
    TableSplits,
    batch_indices,
    load_bundled_table,
    load_published_table,
    read_table,
    split_table,
)
from jaxtyping import Float32
from torch import Tensor

from flow_apps.config import TrainingConfig
from flow_apps.experiments.tabular.config import TableConfig
from flow_apps.training import Batch
from flow_apps.training.randomness import generator


@lru_cache(maxsize=1)
def load_table(config: TableConfig) -> TableSplits:
    """The parts of the table; the last ones that were asked for are kept.

    Raises:
        DataError: If the table is not there, or not one of measured numbers.
    """
    if not config.is_file and config.data not in BUNDLED_TABLES:
        return load_published_table(config.data, config.data_root, verify=config.verify)
    table = _undivided(config)
    if config.columns and table.columns != config.columns:
        expected = f"the columns {', '.join(config.columns)}, as config.json has them"
        remedy = "give the table that the run was trained on"
        raise DataError(config.data, expected, ", ".join(table.columns), remedy)
    return split_table(
        table,
        validation=config.validation_fraction,
        test=config.test_fraction,
        seed=config.division,
    )


def resolved(config: TableConfig) -> TableConfig:
    """The config with the names of the columns, from the file where only it tells them.

    Raises:
        DataError: As in `load_table`.
    """
    return config if config.known_dimensions else config.with_columns(load_table(config).columns)


def rows_under_test(
    table: TableSplits, config: TableConfig, split: str
) -> Float32[Tensor, "rows columns"]:
    """The rows of a split that are tested, spread over it."""
    part, limit = {
        "train": (table.train, config.validation_size),
        "validation": (table.validation, config.validation_size),
        "test": (table.test, config.test_size),
    }[split]
    count = min(limit, len(part))
    return part[torch.arange(count) * len(part) // count]


class TableBatches:
    """Training rows in an order that follows from seed and step, with noise if that is wanted.

    Args:
        rows: What is trained on.
        training: Gives seed and batch size.
        noise: Standard deviation of what is added.
    """

    def __init__(
        self, rows: Float32[Tensor, "rows columns"], training: TrainingConfig, noise: float
    ) -> None:
        self.rows = rows
        self.training = training
        self.noise = noise

    def batch(self, step: int, share: Share) -> Batch:
        """A function of seed and step."""
        seed, size = self.training.seed, self.training.batch_size
        order = share.of(batch_indices(len(self.rows), size, step - 1, seed=seed))
        rows = self.rows[order]
        if self.noise:
            drawn = torch.randn(size, rows.shape[1], generator=generator(seed, "noise", step))
            rows = rows + self.noise * share.of(drawn)
        return Batch(rows)


def _undivided(config: TableConfig) -> Table:
    if config.is_file:
        return read_table(config.data, header=config.header, left_out=config.left_out)
    return load_bundled_table(config.data).without(config.left_out)
