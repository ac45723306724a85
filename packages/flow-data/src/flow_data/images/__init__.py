"""Sets of integer images."""

from flow_data.images.celeba import load_celeba
from flow_data.images.cifar import (
    download_cifar10,
    download_cifar100,
    load_cifar10,
    load_cifar100,
)
from flow_data.images.digits import load_digits
from flow_data.images.folder import image_classes, load_image_folder
from flow_data.images.imagenet import load_imagenet
from flow_data.images.imageset import ImageSet
from flow_data.images.mnist import (
    download_fashion_mnist,
    download_mnist,
    load_fashion_mnist,
    load_mnist,
)
from flow_data.images.npz import load_npz_images

__all__ = [
    "ImageSet",
    "download_cifar10",
    "download_cifar100",
    "download_fashion_mnist",
    "download_mnist",
    "image_classes",
    "load_celeba",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "load_image_folder",
    "load_imagenet",
    "load_mnist",
    "load_npz_images",
]
