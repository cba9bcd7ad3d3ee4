"""The models that clients are evaluated with, composed at the end of a run so that they can be used after it.

Each is composed as the client itself composes it for an evaluation: from the strategy's message and the client state.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Message, RecordDict

from datasets.examples import evaluation_batches
from datasets.federation import Federation
from datasets.source import Part
from fedsim.client.hosted_model import HostedModel, Tensors
from fedsim.config.settings import Settings
from fedsim.engines.grid import FederationGrid
from fedsim.messages.schema import ARRAYS, CACHED, CONFIG, PART
from fedsim.methods.client_state import ClientState
from fedsim.methods.federated_model import FederatedModel
from fedsim.methods.interfaces import ServerStrategy
from fedsim.output.model_files import save_models


@dataclass(frozen=True)
class OwnModels:
    """Composes, client by client, the models of a federation's last round."""

    settings: Settings
    federation: Federation
    messages: list[Message]
    """The strategy's evaluation messages"""
    model: FederatedModel

    @classmethod
    def of(
        cls,
        settings: Settings,
        federation: Federation,
        strategy: ServerStrategy,
        grid: FederationGrid,
        model: FederatedModel,
    ) -> "OwnModels":
        """Ask the strategy what it sends to clients for an evaluation after the last round."""
        config = ConfigRecord({PART: Part.TEST.name})
        messages = list(strategy.configure_evaluate(settings.rounds, model.arrays, config, grid))
        return cls(settings, federation, messages, model)

    def save(self, run_dir: Path) -> None:
        """Write the global model and the clients' own into the run directory.

        Raises:
            FileError: If a file cannot be written.
        """
        save_models(run_dir, self.model, self.differences(), self.records)

    @property
    def records(self) -> RecordDict:
        """The records with which all clients predict beside the model, such as prototypes of classes."""
        content = self.messages[0].content if self.messages else RecordDict()
        beside = (ARRAYS, CONFIG)
        return RecordDict(
            {name: each for name, each in content.items() if name not in beside and not name.startswith(CACHED)}
        )

    def differences(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Yield each client and the entries of its model that are personal or differ from the global model's, if any.

        Where statistics are re-estimated for an evaluation, they are those of the client's training images.
        """
        source = self.federation.source
        host = HostedModel(self.settings, source.num_classes, source.image_shape, torch.device("cpu"))
        states: Mapping[int, RecordDict] = self.model.states or {}
        for message in self.messages:
            client = message.metadata.dst_node_id
            if client in states:
                entries = self._composed(host, message, ClientState(states[client]), client)
                yield client, {name: each for name, each in entries.items() if self._is_own(name, each)}

    def _composed(self, host: HostedModel, message: Message, state: ClientState, client: int) -> Tensors:
        received, context = host.unpack(message, state)
        host.load(received, state, context)
        if not host.policy.reestimates or self.federation.on_devices:
            return host.model.state_dict()
        with host.policy.evaluating(host.model, lambda: self._images(client)):
            entries = host.model.state_dict()  # where statistics are no part of the model, it counts batches meanwhile
            return {name: each.clone() for name, each in entries.items() if name in host.initial}

    def _images(self, client: int) -> Iterator[torch.Tensor]:
        examples = self.federation.examples_of(client, Part.TRAIN)
        return (examples.batch(indices)[0] for indices in evaluation_batches(len(examples)))

    def _is_own(self, name: str, entry: torch.Tensor) -> bool:
        return name in self.model.personal or not torch.equal(entry.cpu(), self.model.complete[name].cpu())
