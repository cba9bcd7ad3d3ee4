"""Loading a state into a network again and again, as a host does for every client."""

from collections.abc import Mapping

import torch
from torch import nn


class StateLoader:
    """Loads states into one model, in one call of torch where the model allows it.

    ``load_state_dict`` looks at every module in Python, which takes longer than a step of a small network. Where the
    entries of the state are the model's own tensors, copying into these does the same.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        state = model.state_dict()
        own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
        shared = all(name in own and own[name].data_ptr() == each.data_ptr() for name, each in state.items())
        self._tensors = state if shared else None

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load a whole state.

        Raises:
            RuntimeError: For other names or shapes than the model's, with them in the error.
        """
        own = self._tensors
        if own is None or own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            self.model.load_state_dict(dict(state))
            return
        with torch.no_grad():
            torch._foreach_copy_(list(own.values()), [state[name] for name in own])
