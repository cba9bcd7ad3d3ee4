"""Runs of FedDST that are watched, for its tests."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from flwr.app import Error, Message

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.engines.inline import InlineGrid
from fedsim.messages.schema import TRAIN, arrays_of
from fedsim.output.progress import Reporter
from fedsim.output.results import Result
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from strategies import FedDST

MakeSettings = Callable[..., Settings]
Tensors = dict[str, torch.Tensor]
SMALL = (
    "strategy=feddst",
    "strategy.density=0.2",
    "strategy.distribution=uniform",
    "strategy.rate=0.3",
    "engine=inline",
)
EVERY = ("strategy.interval=1", "strategy.stop_round=4")


class Watched(InlineGrid):
    """Keeps what it passes on; some replies may be lost or changed on the way."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(ClientAppFactory(prepared.settings, prepared.federation), 6, prepared.devices)
        self.seen: list[tuple[Message, Message]] = []
        self.forms: list[str] = []
        """Of the numbers of one layer, in the answers to training"""
        self.failing: set[int] = set()
        self.change: Callable[[Message], None] = lambda reply: None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in messages:
            (reply,) = super().send_and_receive([message])
            if message.metadata.dst_node_id in self.failing:
                reply = Message(Error(0, "gone"), reply_to=message)
            if message.metadata.message_type == TRAIN and message.metadata.dst_node_id == 2:
                self.change(reply)
            if message.metadata.message_type == TRAIN and reply.has_content():
                self.forms += [array.dtype for name, array in arrays_of(reply).items() if name == "head.weight"]
            self.seen.append((message, reply))
            yield reply

    def trained(self) -> list[tuple[Message, Message]]:
        return [pair for pair in self.seen if pair[0].metadata.message_type == TRAIN]


def dst(prepared: Prepared) -> FedDST:
    assert isinstance(prepared.strategy, FedDST)
    return prepared.strategy


def watched(
    settings: Settings, run_dir: Path, change: Callable[[Message], None] | None = None
) -> tuple[Result, Watched]:
    prepared = prepare(settings)
    grid = Watched(prepared)
    grid.change = grid.change if change is None else change
    return run(prepared, run_dir, Reporter(), grid), grid
