"""Noticing that weights moved and their spectral norms were not followed."""

import warnings

import torch
from flow_kernels.autograd import is_addressable, is_transformed
from jaxtyping import Float
from torch import Tensor

DRIFT = 0.01


class StaleNormWarning(UserWarning):
    """A model is trained without `update_lipschitz`: its maps may not be contractions any more."""


def notice_drift(
    now: Float[Tensor, " *layers"], known: Float[Tensor, " *layers"], coeff: float
) -> None:
    """Warn where norms have moved by more than `DRIFT` since they were followed.

    For passes of training; it reads one number from the device. Value and version of a weight do
    not tell whether an optimizer changed it, but every optimizer moves <W, direction>.

    Args:
        now: <W, direction> with the present weights.
        known: The same when `update_lipschitz` was called last.
        coeff: Norms below it do not matter.
    """
    if torch.compiler.is_compiling() or is_transformed():
        return
    if now.is_meta or not is_addressable(now, known):
        return
    if now.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if bool(((now - known).abs() > DRIFT * known.clamp(min=coeff)).any()):
        warnings.warn(
            "weights of Lipschitz layers have changed since update_lipschitz, so that what is "
            "computed may be no contraction and its log-determinant wrong; call "
            "update_lipschitz(model) after every optimizer step, and lipschitz_certificate(model) "
            "to see the bounds",
            StaleNormWarning,
            stacklevel=2,
        )
