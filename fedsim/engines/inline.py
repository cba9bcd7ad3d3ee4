"""``engine=inline``: every client in this process, one after the other. For debugging, and for one GPU."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from flwr.app import Message
from flwr.clientapp import ClientApp

from fedsim.core.freed_memory import keep_freed_memory
from fedsim.core.threads import fixed_unless_it_fails
from fedsim.engines.client_call import call_client
from fedsim.engines.grid import LocalGrid


class InlineGrid(LocalGrid):
    """A grid that runs the app which ``make_app`` returns for the first of ``devices``, in this process."""

    def __init__(
        self, make_app: Callable[[torch.device], ClientApp], num_nodes: int, devices: Sequence[torch.device]
    ) -> None:
        super().__init__(num_nodes)
        keep_freed_memory()
        with fixed_unless_it_fails() as self._threads_before:
            self._app = make_app(devices[0])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            context = self.contexts[message.metadata.dst_node_id]
            reply, context.state = call_client(self._app, message, context)
            yield reply

    def __exit__(self, *exc: object) -> None:
        torch.set_num_threads(self._threads_before)
