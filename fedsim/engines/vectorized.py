"""``engine=vectorized``: many clients of one model at once, in this process. For one GPU and small networks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from flwr.app import Message
from torch import nn

from datasets.federation import Federation
from fedsim.client.app_factory import ClientAppFactory
from fedsim.client.stack_checks import refuse_unstackable
from fedsim.client.stacked_clients import StackedClients
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.freed_memory import keep_freed_memory
from fedsim.core.threads import fixed_unless_it_fails
from fedsim.engines.client_call import call_client
from fedsim.engines.grid import LocalGrid
from fedsim.messages.schema import TRAIN
from fedsim.methods.interfaces import LocalTrainer


class VectorizedGrid(LocalGrid):
    """A grid that trains up to ``clients_at_once`` clients together on the first of ``devices``.

    Other messages are answered one after the other.
    """

    def __init__(
        self,
        make_app: ClientAppFactory,
        num_nodes: int,
        devices: Sequence[torch.device],
        clients_at_once: int = 32,
    ) -> None:
        super().__init__(num_nodes)
        keep_freed_memory()
        with fixed_unless_it_fails() as self._threads_before:
            self._clients, self._clients_at_once = StackedClients(make_app, devices[0]), clients_at_once

    @classmethod
    def check(cls, devices: Sequence[torch.device], options: Mapping[str, Any]) -> None:
        at_once = options["clients_at_once"]
        if at_once < 1:
            raise UserError(f"engine.clients_at_once={at_once} is not possible: choose a whole number of at least 1.")

    @classmethod
    def check_training(
        cls, settings: Settings, trainer: LocalTrainer, model: nn.Module, federation: Federation
    ) -> None:
        refuse_unstackable(settings, trainer, model, federation.source.image_shape, federation.num_classes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for group in self._groups(messages):
            contexts = [self.contexts[message.metadata.dst_node_id] for message in group]
            if group[0].metadata.message_type == TRAIN:
                answers = self._clients.train(group, contexts)
            else:
                answers = (call_client(self._clients.app, *each) for each in zip(group, contexts, strict=True))
            for context, (reply, state) in zip(contexts, answers, strict=True):
                context.state = state
                yield reply

    def _groups(self, messages: Iterable[Message]) -> Iterator[list[Message]]:
        """Yield the messages: alone, or as many that ask different clients for training as are processed at once."""
        group: list[Message] = []
        for message in messages:
            trains = message.metadata.message_type == TRAIN
            asked = {each.metadata.dst_node_id for each in group}
            if group and (not trains or len(group) == self._clients_at_once or message.metadata.dst_node_id in asked):
                yield group
                group = []
            group.append(message)
            if not trains:
                yield group
                group = []
        if group:
            yield group

    def __exit__(self, *exc: object) -> None:
        torch.set_num_threads(self._threads_before)
