"""Sets of images by name, as integers of the shape that a model takes."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from flow_data import (
    NOISE,
    PICTURES,
    ImageSet,
    fitted,
    in_grey,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_fashion_mnist,
    load_image_folder,
    load_mnist,
    load_npz_images,
    load_picture_set,
    load_svhn,
    load_tensor_images,
    noise_images,
)

from flow_apps.config import suggestion
from flow_apps.errors import ConfigError
from flow_apps.parts.image_sets import spread

OWN = "own"
"""The test images of the run itself."""

_Load: TypeAlias = Callable[[str, bool], ImageSet]

_KNOWN: dict[str, _Load] = {
    "mnist": lambda root, train: load_mnist(root, train=train),
    "fashion_mnist": lambda root, train: load_fashion_mnist(root, train=train),
    "cifar10": lambda root, train: load_cifar10(root, train=train),
    "cifar10bw": lambda root, train: in_grey(load_cifar10(root, train=train)),
    "cifar100": lambda root, train: load_cifar100(root, train=train),
    "svhn": lambda root, train: load_svhn(root, "train" if train else "test"),
}
"""Test images; the training images where /train is behind the name."""

_FILES: dict[str, Callable[[Path, int], ImageSet]] = {
    "npz": lambda path, side: load_npz_images(path),
    "tensor": lambda path, side: load_tensor_images(path),
    "folder": load_image_folder,
}
"""Of a path behind a colon: npz:FILE, tensor:FILE, folder:FOLDER."""

_TRAIN = "/train"


def require_sets(names: tuple[str, ...]) -> None:
    """Refuse names of no set, before anything is loaded.

    Raises:
        ConfigError: With similar names.
    """
    for name in names:
        kind = name.partition(":")[0] if ":" in name else name.removesuffix(_TRAIN)
        trained = name.endswith(_TRAIN) and ":" not in name
        known = [*_KNOWN] if trained else [*_KNOWN, *NOISE, *PICTURES, OWN, "digits"]
        if kind in (_FILES if ":" in name else known):
            continue
        hint = suggestion(kind, known) or f"; known: {', '.join(known)}"
        files = ", ".join(f"{key}:PATH" for key in _FILES)
        raise ConfigError(f"sets: there is no set {name!r}{hint}; or {files}")


def load_set(
    name: str,
    shape: tuple[int, int, int],
    levels: int,
    *,
    count: int,
    seed: int,
    root: str,
    own: Callable[[], ImageSet] | None,
) -> ImageSet:
    """At most `count` images of a set, spread over it, of a shape and number of levels.

    Args:
        name: A name of `require_sets`.
        shape: Channels, height and width.
        levels: Values that a pixel can take.
        count: How many at most.
        seed: Of sets of noise, whatever else is random.
        root: Folder of the data.
        own: Gives the test images of the run; None where there is none.

    Raises:
        DataError: The files are missing or damaged.
        ConfigError: There are no own images.
    """
    images = _loaded(name, shape, count=count, seed=seed, root=root, own=own)
    return fitted(_whole(spread(images, count)), shape, levels)


def _loaded(
    name: str,
    shape: tuple[int, int, int],
    *,
    count: int,
    seed: int,
    root: str,
    own: Callable[[], ImageSet] | None,
) -> ImageSet:
    if ":" in name:
        kind, _, path = name.partition(":")
        return _FILES[kind](Path(path), max(shape[1:]))
    if name in NOISE:
        return noise_images(name, count, shape, seed=seed)
    if name in PICTURES:
        return load_picture_set(name, root, max(shape[1:]), most=count)
    if name == "digits":
        return load_digits()
    if name != OWN:
        return _KNOWN[name.removesuffix(_TRAIN)](root, name.endswith(_TRAIN))
    if own is None:
        raise ConfigError("sets: an imported checkpoint has no own images; name their set instead")
    return own()


def _whole(images: ImageSet) -> ImageSet:
    """Its images alone, without the set that they were chosen from."""
    return ImageSet(images.images, images.labels, images.levels, images.name)
