"""Tables that scikit-learn brings: no download, no files."""

from collections.abc import Callable

import numpy as np

from flow_data.lookup import look_up
from flow_data.tabular.checks import require_density
from flow_data.tabular.table import Table, as_table

# What has two values only.
_LEFT_OUT: dict[str, tuple[str, ...]] = {"diabetes": ("sex",), "breast_cancer": (), "wine": ()}
BUNDLED_TABLES = tuple(_LEFT_OUT)
"""Names of the tables that `load_bundled_table` knows."""


def load_bundled_table(name: str) -> Table:
    """The measurements of a table of scikit-learn, without classes and targets.

    diabetes: 442 patients, 9 numbers (Efron et al. 2004; their sex is left out, for it has two
    values). breast_cancer: 569 tumours, 30 numbers. wine: 178 wines, 13 numbers (both of the UCI
    repository).

    Raises:
        ValueError: There is no such table.
    """
    # Imported here because it takes about as long as importing torch.
    from sklearn import datasets  # noqa: PLC0415

    left_out = look_up(_LEFT_OUT, name, "table")
    load: Callable[[], dict[str, object]] = getattr(datasets, f"load_{name}")
    found = load()
    columns = [str(column) for column in np.asarray(found["feature_names"])]
    return require_density(as_table(name, columns, found["data"]).without(left_out))
