"""Layers whose parameters are first set from data."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flow_core.bijection import Bijection
from flow_core.context import Context
from flow_core.passes import Pass


class DataDependent(Bijection):
    """A bijection that refuses to be used before `initialize` has set its parameters.

    Whether that happened is the buffer `initialized`, saved with the state. A Python copy of it is
    kept and refreshed by `load_state_dict`, so that a pass through the layer does not read from
    the device.

    Args:
        event_shape: As of `Bijection`.
    """

    initialized: Tensor

    def __init__(self, event_shape: Sequence[int | None] | None = None) -> None:
        super().__init__(event_shape)
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self._ready = False
        # torch declares this method without types.
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]

    @abstractmethod
    def fit(self, x: Tensor, context: Context = None) -> None:
        """Set the parameters from a batch; the statistics are those of all ranks together.

        Raises:
            ValueError: If the batch holds values that are not finite, or too few of them.
        """

    def reset_initialization(self) -> None:
        """Let the next `initialize` set the parameters again."""
        self.initialized.fill_(False)
        self._ready = False

    def refresh_initialized(self) -> None:
        """Read the buffer `initialized` again, after something has written to it."""
        self._ready = not self.initialized.is_meta and bool(self.initialized)

    def require_initialized(self) -> None:
        """Raise unless the parameters have been set.

        Raises:
            RuntimeError: If neither `initialize` nor a loaded state has set them.
        """
        # The buffer may have been copied into place without load_state_dict, so it has the last
        # word; it is read only while the Python copy says no.
        if not self._ready and not bool(self.initialized):
            raise RuntimeError(
                f"expected {type(self).__name__}({self.extra_repr()}) to be initialized from data, "
                "got a call before that; call flow_core.initialize(model, x) on a batch of "
                "training data, or load a trained state"
            )

    def _prepare(self, x: Tensor, how: Pass) -> None:
        """Set the parameters in a pass that initializes, unless they are set."""
        if how.initializes and how.direction == "transform" and not bool(self.initialized):
            with torch.no_grad():
                self.fit(x, how.context)
                self.initialized.fill_(True)
            self._ready = True
        self.require_initialized()


def _refresh(module: nn.Module, _: object) -> None:
    if isinstance(module, DataDependent):
        module.refresh_initialized()
