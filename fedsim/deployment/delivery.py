"""Delivery of messages to nodes that may leave before they answer, and come back."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from flwr.app import Error, Message

from fedsim.deployment.error_text import one_line
from fedsim.deployment.joining import SHOWN_CLIENTS
from fedsim.deployment.reminder import Reminder
from fedsim.messages.errors import UNKNOWN
from fedsim.messages.packing import unpacked

log = logging.getLogger(__name__)

REFRESH = 3.0
"""Seconds between queries of which nodes are connected."""
POLL, SIMULATED_POLL = 1.0, 0.1
ATTEMPTS = 5
FIRST_WORD = 60.0
"""Seconds until the log first says whose answers are missing: most devices train for less."""
GONE = (3, 4, 5)
"""Flower's ``MESSAGE_UNAVAILABLE``, ``REPLY_MESSAGE_UNAVAILABLE`` and ``NODE_UNAVAILABLE``: the node is dead."""


class Nodes(Protocol):
    """Which node hosts which client at the moment, and how to reach it."""

    @property
    def simulated(self) -> bool: ...

    def refresh(self) -> None: ...

    def node_of(self, partition: int) -> int | None: ...

    @property
    def strangers(self) -> list[str]: ...

    def given_up(self, partition: int) -> str | None: ...

    def evaluated_here(self, each: Message) -> Message | None: ...

    def push(self, messages: Iterable[Message]) -> list[str | None]: ...

    def pull(self, ids: Iterable[str]) -> Iterator[Message]: ...

    def note(self, client: int, reply: Message) -> None: ...


class Delivery:
    """The messages of one call that are not answered yet, and the replies that have arrived."""

    def __init__(self, nodes: Nodes, messages: list[Message], timeout: float | None) -> None:
        self.nodes = nodes
        self.started = time.monotonic()
        self.deadline = None if timeout is None else self.started + timeout
        self.limit = "" if timeout is None else f" of round_timeout={timeout}"
        self.reminder = Reminder(FIRST_WORD)
        self.late = f"it has not answered within round_timeout={timeout} seconds"
        self.waiting = list(messages)
        self.out: dict[str, Message] = {}
        self.replies: dict[int, Message] = {}
        self.attempts: Counter[int] = Counter()
        self.refreshed = float("-inf")

    def reply_to(self, message: Message) -> Message | None:
        return self.replies.pop(id(message), None)

    def step(self) -> None:
        """Send what can be sent, receive replies, answer messages past the deadline with errors, and sleep a little."""
        if time.monotonic() - self.refreshed > REFRESH:
            self.nodes.refresh()
            self.refreshed = time.monotonic()
        self._send()
        if self.out:
            self._receive()
        if self.deadline is not None and time.monotonic() > self.deadline:
            for each in (*self.waiting, *self.out.values()):
                self.replies[id(each)] = _failed(each, self.late)
            self.waiting, self.out = [], {}
        if self.out or self.waiting:
            self._remind()
            time.sleep(SIMULATED_POLL if self.nodes.simulated else POLL)

    def _remind(self) -> None:
        """Log whose answers are missing; not in a simulation, where the progress shows all that there is."""
        waited = time.monotonic() - self.started
        if not self.nodes.simulated and self.reminder.due(waited):
            clients = sorted(each.metadata.dst_node_id for each in (*self.waiting, *self.out.values()))
            text = f"waiting for {waited:.0f}{self.limit} seconds for {self._shown(clients)}"
            log.warning("%s", "; ".join([text, *self.nodes.strangers]))

    def _shown(self, clients: list[int]) -> str:
        nodes = [(client, self.nodes.node_of(client)) for client in clients[:SHOWN_CLIENTS]]
        shown = ", ".join(f"client {client} ({'no node' if id_ is None else f'node {id_}'})" for client, id_ in nodes)
        return shown + (f" and {len(clients) - SHOWN_CLIENTS} more" if len(clients) > SHOWN_CLIENTS else "")

    def _send(self) -> None:
        busy = {self.nodes.node_of(each.metadata.dst_node_id) for each in self.out.values()}
        sent, later = [], []
        for each in self.waiting:
            client = each.metadata.dst_node_id
            node = self.nodes.node_of(client)
            here = self.nodes.evaluated_here(each)
            if here is not None:
                self.replies[id(each)] = here
            elif node is None and (reason := self.nodes.given_up(client)) is not None:
                self.replies[id(each)] = _failed(each, reason)
            elif node is None or node in busy:
                later.append(each)
            else:
                busy.add(node)
                sent.append(each)
        self.waiting = later
        for each, id_ in zip(sent, self.nodes.push(sent) if sent else [], strict=True):
            if id_ is None:  # the node left at this moment
                self._again(each, "its message could not be sent")
            else:
                self.out[id_] = each

    def _receive(self) -> None:
        for reply in self.nodes.pull(self.out):
            each = self.out.pop(reply.metadata.reply_to_message_id)
            # As if the client itself had answered: the reply's source is the client that the message was addressed to.
            if not reply.has_error():
                self.nodes.note(each.metadata.dst_node_id, reply)
                self.replies[id(each)] = _opened(each, reply)
                continue
            reason = one_line(reply.error.reason)
            if reply.error.code in GONE:
                self.refreshed = float("-inf")
                self._again(each, reason)
            else:
                self.replies[id(each)] = Message(Error(reply.error.code, reason), reply_to=each)

    def _again(self, each: Message, reason: str) -> None:
        self.attempts[id(each)] += 1
        if self.attempts[id(each)] < ATTEMPTS:
            log.warning("client %d is asked again: %s", each.metadata.dst_node_id, reason)
            self.waiting.append(each)
        else:
            self.replies[id(each)] = _failed(each, f"it was asked {ATTEMPTS} times: {reason}")


def _opened(each: Message, reply: Message) -> Message:
    try:
        return Message(unpacked(reply.content), reply_to=each)
    except ValueError as error:
        return _failed(each, one_line(f"it sent what cannot be read ({error})"))


def _failed(each: Message, reason: str) -> Message:
    return Message(Error(UNKNOWN, reason), reply_to=each)
