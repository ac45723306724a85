"""Data for normalising flows: toy densities, functions to fit, integer images, fixed splits."""

from flow_data.augment import augment_cifar, augment_mnist, random_flip, random_shift
from flow_data.batches import batch_indices, batches, batches_per_epoch, in_order
from flow_data.download import download
from flow_data.functions import TARGETS, Target, sample_target
from flow_data.images import (
    ImageSet,
    download_cifar10,
    download_cifar100,
    download_fashion_mnist,
    download_mnist,
    load_celeba,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_fashion_mnist,
    load_image_folder,
    load_imagenet,
    load_mnist,
    load_npz_images,
)
from flow_data.integrity import Checksum, DataError, file_checksum
from flow_data.order import permutation
from flow_data.sharing import WHOLE, Share
from flow_data.splits import ImageSplits, Splits, digits_splits, split_images, splits
from flow_data.toy import TOY_DENSITIES, ToyDensity, sample_toy

__all__ = [
    "TARGETS",
    "TOY_DENSITIES",
    "WHOLE",
    "Checksum",
    "DataError",
    "ImageSet",
    "ImageSplits",
    "Share",
    "Splits",
    "Target",
    "ToyDensity",
    "augment_cifar",
    "augment_mnist",
    "batch_indices",
    "batches",
    "batches_per_epoch",
    "digits_splits",
    "download",
    "download_cifar10",
    "download_cifar100",
    "download_fashion_mnist",
    "download_mnist",
    "file_checksum",
    "in_order",
    "load_celeba",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "load_image_folder",
    "load_imagenet",
    "load_mnist",
    "load_npz_images",
    "permutation",
    "random_flip",
    "random_shift",
    "sample_target",
    "sample_toy",
    "split_images",
    "splits",
]
