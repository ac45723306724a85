"""Sets of integer images."""

from flow_data.images.celeba import load_celeba
from flow_data.images.cifar import (
    download_cifar10,
    download_cifar100,
    load_cifar10,
    load_cifar100,
)
from flow_data.images.digits import load_digits
from flow_data.images.fitting import fitted, in_grey
from flow_data.images.folder import image_classes, load_image_folder
from flow_data.images.imagenet import load_imagenet
from flow_data.images.imageset import ImageSet
from flow_data.images.mnist import (
    download_fashion_mnist,
    download_mnist,
    load_fashion_mnist,
    load_mnist,
)
from flow_data.images.noise import NOISE, noise_images
from flow_data.images.npz import load_npz_images
from flow_data.images.picture_sets import load_picture_set, prepare_picture_set
from flow_data.images.published_pictures import PICTURES, PRETRAINED
from flow_data.images.svhn import download_svhn, load_svhn
from flow_data.images.tensor_file import load_tensor_images

__all__ = [
    "NOISE",
    "PICTURES",
    "PRETRAINED",
    "ImageSet",
    "download_cifar10",
    "download_cifar100",
    "download_fashion_mnist",
    "download_mnist",
    "download_svhn",
    "fitted",
    "image_classes",
    "in_grey",
    "load_celeba",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "load_image_folder",
    "load_imagenet",
    "load_mnist",
    "load_npz_images",
    "load_picture_set",
    "load_svhn",
    "load_tensor_images",
    "noise_images",
    "prepare_picture_set",
]
