"""Inverse convolution: images from the padded convolution that made them."""

from flow_kernels.inverse_conv.op import inverse_conv2d, padded_conv2d
from flow_kernels.inverse_conv.orders import Order

__all__ = ["Order", "inverse_conv2d", "padded_conv2d"]
