"""Sets of picture files on the net: textures, places, small ImageNets, letters, characters.

Digests are those that torchvision and public loaders state; of the others nobody published one.
"""

from dataclasses import dataclass

from flow_data.archives import PublishedArchive
from flow_data.integrity import Checksum


@dataclass(frozen=True)
class PicturesSource:
    """A set of picture files.

    Attributes:
        name: For reports.
        archive: Where it comes from.
        pictures: The folder of the pictures, below the root.
        count: How many there are, with the broken ones.
        broken: Pictures that are known to be broken, below that folder.
    """

    name: str
    archive: PublishedArchive
    pictures: str
    count: int
    broken: tuple[str, ...] = ()


def _odin(name: str, link: str, count: int, md5: str | None = None) -> PicturesSource:
    """A set of the authors of ODIN (Liang et al. 2018)."""
    archive = PublishedArchive(
        name=name,
        urls=(f"https://www.dropbox.com/s/{link}/{name}.tar.gz?dl=1",),
        file=f"{name}.tar.gz",
        size=range(1_000_000, 1_000_000_000),
        checksum=None if md5 is None else Checksum("md5", md5),
        folder=name,
        unpacked=1_000_000_000,
        members=30_000,
    )
    return PicturesSource(name, archive, name, count)


def _omniglot(part: str, md5: str, count: int) -> PicturesSource:
    archive = PublishedArchive(
        name=f"omniglot-{part}",
        urls=(f"https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{part}.zip",),
        file=f"omniglot-py/{part}.zip",
        size=range(1_000_000, 20_000_000),
        checksum=Checksum("md5", md5),
        folder=f"omniglot-py/{part}",
        unpacked=200_000_000,
        members=50_000,
        files=count,
    )
    return PicturesSource(f"Omniglot-{part}", archive, f"omniglot-py/{part}", count)


_TEXTURES = PublishedArchive(
    name="dtd",
    urls=("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",),
    file="dtd/dtd-r1.0.1.tar.gz",
    size=range(500_000_000, 800_000_000),
    checksum=Checksum("md5", "fff73e5086ae6bdbea199a49dfb8a4c1"),
    folder="dtd/dtd",
    unpacked=1_500_000_000,
    members=20_000,
    required=("images", "labels"),
)
_PLACES = PublishedArchive(
    name="places365",
    urls=("http://data.csail.mit.edu/places/places365/val_256.tar",),
    file="val_256.tar",
    size=range(400_000_000, 800_000_000),
    checksum=Checksum("md5", "e27b17d8d44f4af9a78502beb927f808"),
    folder="val_256",
    unpacked=1_500_000_000,
    members=40_000,
    files=36_500,
)
_TINY_IMAGENET = PublishedArchive(
    name="tinyimagenet",
    urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
    file="tiny-imagenet-200.zip",
    size=range(200_000_000, 300_000_000),
    checksum=Checksum("md5", "90528d7ca1a48142e341f4ef8d21d0de"),
    folder="tiny-imagenet-200",
    unpacked=1_000_000_000,
    members=130_000,
    required=("train", "val", "test"),
)
_NOT_MNIST = PublishedArchive(
    name="notmnist",
    urls=(
        "http://yaroslavvb.com/upload/notMNIST/notMNIST_small.tar.gz",
        "https://commondatastorage.googleapis.com/books1000/notMNIST_small.tar.gz",
    ),
    file="notMNIST_small.tar.gz",
    size=range(8_458_043, 8_458_044),
    folder="notMNIST_small",
    unpacked=100_000_000,
    members=30_000,
)

PICTURES: dict[str, PicturesSource] = {
    "dtd": PicturesSource("DTD", _TEXTURES, "dtd/dtd/images", 5640),
    "places365": PicturesSource("Places365", _PLACES, "val_256", 36_500),
    "tinyimagenet": PicturesSource(
        "TinyImageNet", _TINY_IMAGENET, "tiny-imagenet-200/val/images", 10_000
    ),
    "imagenet_resize": _odin(
        "Imagenet_resize", "kp3my3412u5k9rl", 10_000, "0f9ff11d45babf2eff5fe12281d1ac31"
    ),
    "imagenet_crop": _odin("Imagenet", "avgm2u562itwpkl", 10_000),
    "lsun_resize": _odin("LSUN_resize", "moqh2wh8696c3yl", 10_000),
    "lsun_crop": _odin("LSUN", "fhtsw1m3qxlwj6h", 10_000),
    "isun": _odin("iSUN", "ssz7qxfqae0cca5", 8925),
    "notmnist": PicturesSource(
        "notMNIST",
        _NOT_MNIST,
        "notMNIST_small",
        18_726,
        broken=(
            "A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png",
            "F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png",
        ),
    ),
    "omniglot": _omniglot("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811", 13_180),
    "omniglot_background": _omniglot(
        "images_background", "68d2efa1b9178cc56df9314c21c6e718", 19_280
    ),
}
"""By the name that commands know."""

PRETRAINED: dict[str, PublishedArchive] = {
    "pretrained-glow": PublishedArchive(
        name="pretrained-glow",
        urls=("http://www.cs.ox.ac.uk/people/joost.vanamersfoort/glow.zip",),
        file="pretrained/glow.zip",
        size=range(50_000_000, 500_000_000),
        folder="pretrained/glow",
        unpacked=1_000_000_000,
        members=100,
        required=("hparams.json", "glow_affine_coupling.pt"),
    ),
    "pretrained-resflow": PublishedArchive(
        name="pretrained-resflow",
        urls=(
            "https://github.com/rtqichen/residual-flows/releases/download/v1.0.0/"
            "cifar10_resflow_16-16-16.pth",
        ),
        file="pretrained/cifar10_resflow_16-16-16.pth",
        size=range(50_000_000, 2_000_000_000),
    ),
}
"""Checkpoints that others trained, which `apps/import.py` converts; of none is there a digest."""
