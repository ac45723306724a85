"""Matrices with orthonormal columns from free ones."""

import torch
from flow_solvers.precision import in_float64
from jaxtyping import Float, Float64
from torch import Tensor


def cayley(free: Float[Tensor, "*nets rows columns"]) -> Float64[Tensor, "*nets rows columns"]:
    """V with orthonormal columns, or rows where it is wide, from any matrix, in float64.

    V = [(I + Z)⁻¹(I - Z); -2Y(I + Z)⁻¹] with [X; Y] the free matrix and Z = X - Xᵀ + YᵀY, whose
    inverse exists, for the symmetric part of I + Z is at least I. In float32 rounding makes ‖V‖²
    exceed 1 by 1e-6 to 1, depending on the size of the free matrix. Source: Wang and Manchester
    2023, §3.
    """
    if free.shape[-2] < free.shape[-1]:
        return cayley(free.mT).mT
    wide = in_float64(free)
    x, y = torch.tensor_split(wide, [wide.shape[-1]], -2)
    unit = torch.eye(wide.shape[-1], dtype=wide.dtype, device=wide.device)
    inverse = torch.linalg.inv(unit + x - x.mT + y.mT @ y)
    return torch.cat([2 * inverse - unit, -2 * (y @ inverse)], -2)
