"""Tables of real numbers: published ones, those of scikit-learn, and files."""

from flow_data.tabular.bundled import BUNDLED_TABLES, load_bundled_table
from flow_data.tabular.files import TABLE_FILES, read_table
from flow_data.tabular.load import load_published_table
from flow_data.tabular.prepare import prepare_tables
from flow_data.tabular.published import (
    MAF_ARCHIVE,
    PUBLISHED_TABLES,
    PublishedTable,
    TableArchive,
)
from flow_data.tabular.table import Table, TableSplits, plain_names, split_table

__all__ = [
    "BUNDLED_TABLES",
    "MAF_ARCHIVE",
    "PUBLISHED_TABLES",
    "TABLE_FILES",
    "PublishedTable",
    "Table",
    "TableArchive",
    "TableSplits",
    "load_bundled_table",
    "load_published_table",
    "plain_names",
    "prepare_tables",
    "read_table",
    "split_table",
]
