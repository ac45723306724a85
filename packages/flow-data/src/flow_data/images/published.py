"""What the publishers of the MNIST family put on the net, file by file.

Digests are those that torchvision, its mirrors and the authors state.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFile:
    """One IDX file and its gzip archive.

    Attributes:
        stem: Name of the uncompressed file.
        content: md5 of the uncompressed file.
        archive: md5 of the published archive; other archives of the same content differ.
        archive_size: Bytes of the published archive.
    """

    stem: str
    content: str
    archive: str
    archive_size: int


@dataclass(frozen=True)
class PublishedPart:
    """Images, their labels, and how many there are."""

    images: PublishedFile
    labels: PublishedFile
    count: int


@dataclass(frozen=True)
class Family:
    """A data set of the MNIST family.

    Attributes:
        name: Its folder below the root.
        mirrors: Addresses of the archives, each ending in a slash, best first.
        train: The training part.
        test: The test part.
    """

    name: str
    mirrors: tuple[str, ...]
    train: PublishedPart
    test: PublishedPart


MNIST = Family(
    name="MNIST",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    train=PublishedPart(
        PublishedFile(
            "train-images-idx3-ubyte",
            "6bbc9ace898e44ae57da46a324031adb",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            9912422,
        ),
        PublishedFile(
            "train-labels-idx1-ubyte",
            "a25bea736e30d166cdddb491f175f624",
            "d53e105ee54ea40749a09fcbcd1e9432",
            28881,
        ),
        60000,
    ),
    test=PublishedPart(
        PublishedFile(
            "t10k-images-idx3-ubyte",
            "2646ac647ad5339dbf082846283269ea",
            "9fb629c4189551a2d022fa330f9573f3",
            1648877,
        ),
        PublishedFile(
            "t10k-labels-idx1-ubyte",
            "27ae3e4e09519cfbb04c329615203637",
            "ec29112dd5afa0611ce80d1b7f02629c",
            4542,
        ),
        10000,
    ),
)

FASHION_MNIST = Family(
    name="FashionMNIST",
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    train=PublishedPart(
        PublishedFile(
            "train-images-idx3-ubyte",
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            26421880,
        ),
        PublishedFile(
            "train-labels-idx1-ubyte",
            "9018921c3c673c538a1fc5bad174d6f9",
            "25c81989df183df01b3e8a0aad5dffbe",
            29515,
        ),
        60000,
    ),
    test=PublishedPart(
        PublishedFile(
            "t10k-images-idx3-ubyte",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "bef4ecab320f06d8554ea6380940ec79",
            4422102,
        ),
        PublishedFile(
            "t10k-labels-idx1-ubyte",
            "15d484375f8d13e6eb1aabb0c3f46965",
            "bb300cfdad3c16e7a12a480ee83cd310",
            5148,
        ),
        10000,
    ),
)
