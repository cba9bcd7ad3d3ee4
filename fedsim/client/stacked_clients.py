"""The clients of ``engine=vectorized``: a client host that takes several messages that ask for training at once."""

from collections.abc import Iterator, Sequence
from copy import copy

import torch
from flwr.app import Context, Message, RecordDict

from fedsim.client.app_factory import ClientAppFactory
from fedsim.client.host import Opened
from fedsim.client.stack import Lane, Stack
from fedsim.core.errors import FedsimError
from fedsim.engines.client_call import call_client, error_reply
from fedsim.methods.stackable import is_stackable


class StackedClients:
    """Opens each message, trains all clients together, and closes each message, as the client host does with one."""

    def __init__(self, factory: ClientAppFactory, device: torch.device) -> None:
        self._host = factory.host(device)
        assert is_stackable(self._host.trainer)  # else the settings have been refused
        self._trainer = self._host.trainer
        self._opened: dict[int, tuple[Opened, Lane]] = {}
        self.app = factory.app_of(self._host, self._open)
        """Answers all messages; one that asks for training is only opened."""

    def train(self, messages: Sequence[Message], contexts: Sequence[Context]) -> Iterator[tuple[Message, RecordDict]]:
        """Yield, in the order of the messages, each client's reply and its new state.

        A client that fails answers with an error and keeps its state, and the others go on. Only where the common
        computation fails do all of them.
        """
        self._opened.clear()
        answers = [call_client(self.app, message, context) for message, context in zip(messages, contexts, strict=True)]
        failed = self._train_opened()
        for message, context, (answer, state) in zip(messages, contexts, answers, strict=True):
            if answer.has_error():
                yield answer, state
                continue
            trial = copy(context)
            trial.state = state
            try:
                if failed is not None:
                    raise failed
                answer = self._close(message, trial)
            except Exception as error:
                answer, state = error_reply(message, error), context.state
            yield answer, state

    def _open(self, message: Message, context: Context) -> Message:
        """Process a message up to the first step."""
        opened = self._host.open(message, context)
        with self._host.surroundings(opened.training):
            self._trainer.start(self._host.model, opened.training)
        self._opened[message.metadata.dst_node_id] = opened, Lane.of(self._host.model, opened.training)
        return Message(RecordDict(), reply_to=message)

    def _train_opened(self) -> Exception | None:
        """Train what is open; return what the common computation raised."""
        lanes = [lane for _, lane in self._opened.values()]
        if not lanes:
            return None
        try:
            with self._host.algorithms(), self._host.in_training(lanes[0].context.round):
                Stack(self._host.model, self._trainer, lanes).train()
        except torch.OutOfMemoryError as error:
            words = f"memory was used up by {len(lanes)} clients at once: choose a smaller engine.clients_at_once"
            failed = FedsimError(words)
            failed.__cause__ = error
            return failed
        except Exception as error:
            return error
        return None

    def _close(self, message: Message, context: Context) -> Message:
        """Process a message from the last step on.

        Raises:
            Diverged: If the client's loss was not finite.
        """
        opened, lane = self._opened.pop(message.metadata.dst_node_id)
        if lane.error is not None:
            raise lane.error
        with self._host.algorithms():
            lane.load(self._host.model)
            with self._host.surroundings(opened.training):
                metrics = self._trainer.finish(self._host.model, opened.training, lane.metrics)
            return self._host.close(message, context, opened, metrics)
