"""The model of one process, into which the model of each client is composed in turn.

It is the same on every engine, in the server at the end of a run, and where a finished run is loaded.
"""

from collections.abc import Mapping

import torch
from flwr.app import Message

from fedsim.config.settings import Settings
from fedsim.messages.arrays import to_tensors
from fedsim.messages.schema import ENTRIES, ROUND, arrays_of, config_of
from fedsim.methods.client_state import ClientState
from fedsim.methods.interfaces import ClientContext
from fedsim.methods.method import Method
from fedsim.models import build_model
from fedsim.models.first_pass import ImageShape
from fedsim.models.loading import StateLoader
from fedsim.norms.policy import NormPolicy

Tensors = Mapping[str, torch.Tensor]


class HostedModel:
    """A network with its norm policy, and the local trainer that predicts with it."""

    def __init__(self, settings: Settings, num_classes: int, image_shape: ImageShape, device: torch.device) -> None:
        self.model = build_model(settings, num_classes, image_shape).to(device)
        self.policy = NormPolicy.of(settings.norm, settings.rounds)
        self.policy.apply(self.model)
        self.initial = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.loader = StateLoader(self.model)
        self.trainer = Method.of(settings.strategy).make_trainer(settings)

    def unpack(self, message: Message, state: ClientState) -> tuple[Tensors, ClientContext]:
        """Return the entries in an evaluation message, and the context; its cached records are not stored."""
        known = ClientContext(
            round=int(str(config_of(message).get(ROUND, 0))),
            config=config_of(message),
            sent=message.content,
            cached=state.cached(message.content),
            state=state.method,
        )
        return self.trainer.unpack(to_tensors(arrays_of(message)), self.model, known), known

    def load(self, received: Tensors, state: ClientState, context: ClientContext | None = None) -> None:
        """Load the received entries, completed by the personal part, cached entries and the initial model."""
        fixed = state.fixed_entries
        if context is not None and ENTRIES in context.cached:
            fixed = to_tensors(context.cached[ENTRIES])
        # Raises for names that the model does not have, with these names in the error.
        self.loader.load({**self.initial, **fixed, **state.personal, **received})
