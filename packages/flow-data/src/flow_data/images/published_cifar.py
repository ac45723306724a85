"""What the publisher of the CIFAR family puts on the net, file by file.

Digests are those that torchvision and the author state.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CifarFile:
    """One pickled file and its md5."""

    name: str
    content: str


@dataclass(frozen=True)
class CifarArchive:
    """A data set of the CIFAR family.

    Attributes:
        name: Name for reports.
        folder: Folder that the archive unpacks to.
        classes: Number of classes.
        label_key: Where the labels are in a pickled file.
        mirrors: Addresses of the folder of the archive, each ending in a slash, best first.
        archive: Name of the archive.
        archive_content: Its md5.
        archive_size: Its bytes.
        unpacked_size: Bytes that its content takes at most.
        train: Files of the training part, in order.
        test: Files of the test part.
        meta: File of the names of the classes.
    """

    name: str
    folder: str
    classes: int
    label_key: str
    mirrors: tuple[str, ...]
    archive: str
    archive_content: str
    archive_size: int
    unpacked_size: int
    train: tuple[CifarFile, ...]
    test: tuple[CifarFile, ...]
    meta: CifarFile


CIFAR10 = CifarArchive(
    name="CIFAR10",
    folder="cifar-10-batches-py",
    classes=10,
    label_key="labels",
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    archive="cifar-10-python.tar.gz",
    archive_content="c58f30108f718f92721af3b95e74349a",
    archive_size=170498071,
    unpacked_size=200_000_000,
    train=(
        CifarFile("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        CifarFile("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        CifarFile("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        CifarFile("data_batch_4", "634d18415352ddfa80567beed471001a"),
        CifarFile("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test=(CifarFile("test_batch", "40351d587109b95175f43aff81a1287e"),),
    meta=CifarFile("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
)

CIFAR100 = CifarArchive(
    name="CIFAR100",
    folder="cifar-100-python",
    classes=100,
    label_key="fine_labels",
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    archive="cifar-100-python.tar.gz",
    archive_content="eb9058c3a382ffc7106e4002c42a8d85",
    archive_size=169001437,
    unpacked_size=200_000_000,
    train=(CifarFile("train", "16019d7e3df5f24257cddd939b257f8d"),),
    test=(CifarFile("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    meta=CifarFile("meta", "7973b15100ade9c7d40fb424638fde48"),
)
