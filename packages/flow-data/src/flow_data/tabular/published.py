"""The tables of the archive of Masked Autoregressive Flows, as published."""

from dataclasses import dataclass, field

from flow_data.integrity import Checksum


@dataclass(frozen=True)
class PublishedTable:
    """What a table must be.

    Attributes:
        files: In the archive, and below the root.
        prepared: What `prepare_tables` makes of them, and `load_published_table` reads.
        dimensions: Columns after preprocessing.
        train: Rows to train on.
        validation: Rows to choose models by.
        test: Rows of the reported figure.
    """

    files: tuple[str, ...]
    prepared: tuple[str, ...]
    dimensions: int
    train: int
    validation: int
    test: int


PUBLISHED_TABLES: dict[str, PublishedTable] = {
    "power": PublishedTable(
        ("power/data.npy",), ("power/data.npy",), 6, 1_659_917, 184_435, 204_928
    ),
    "gas": PublishedTable(
        ("gas/ethylene_CO.pickle",), ("gas/ethylene_CO.npz",), 8, 852_174, 94_685, 105_206
    ),
    "hepmass": PublishedTable(
        ("hepmass/1000_train.csv", "hepmass/1000_test.csv"),
        ("hepmass/1000_train.npz", "hepmass/1000_test.npz"),
        21,
        315_123,
        35_013,
        174_987,
    ),
    "miniboone": PublishedTable(
        ("miniboone/data.npy",), ("miniboone/data.npy",), 43, 29_556, 3_284, 3_648
    ),
    "bsds300": PublishedTable(
        ("BSDS300/BSDS300.hdf5",), ("BSDS300/BSDS300.npz",), 63, 1_000_000, 50_000, 250_000
    ),
}


@dataclass(frozen=True)
class TableArchive:
    """An archive of tables.

    Attributes:
        urls: Addresses, best first.
        checksum: Its digest.
        size: Bytes that it may have.
        folder: Of its members.
    """

    urls: tuple[str, ...] = (
        "https://zenodo.org/api/records/1161203/files/data.tar.gz/content",
        "https://zenodo.org/record/1161203/files/data.tar.gz",
    )
    checksum: Checksum = field(
        default_factory=lambda: Checksum("md5", "9b9c9b0375315ad270eba4ce80c093ab")
    )
    # The digest is published and the size in megabytes only, of either kind.
    size: range = range(800_000_000, 900_000_000)
    folder: str = "data"


MAF_ARCHIVE = TableArchive()
"""Zenodo, record 1161203 (Papamakarios, Pavlakou and Murray 2017)."""
