"""The registry of nodes: which are online and which clients they host, while nodes join, leave, and are queried."""

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedsim.deployment.devices.node import NodeProfile
from fedsim.deployment.error_text import one_line
from fedsim.deployment.reply_limit import LimitedReplies
from fedsim.messages.schema import CONFIG, QUERY_NODE

log = logging.getLogger(__name__)

REJOIN = 120.0
"""Seconds that a client's node may be away before the run goes on without it; Flower notices a death after 60."""
QUERY_TIMEOUT = 300.0
"""Seconds after which an unanswered query counts as lost; not shorter, since a second one slows a device further."""
ASK_AGAIN, AT_MOST = 60.0, 960.0
"""Seconds until a node that answered with an error is queried again, doubled each time up to the second number.

On a device, each query starts a process.
"""
ASKED_AT_ONCE = 1000
"""Nodes whose answers are waited for at once: further ones are queried when these have answered or are lost, so that
whoever joins over and over costs no more than that."""
SHOWN_GAPS = 10


@dataclass
class _Question:
    """The queries to one node for its profile, until it has answered with one."""

    first: float
    """The time of the first query"""
    last: float = 0.0
    """The time of the last one"""
    times: int = 0
    again: float = 0.0
    """The time from which it may be queried again"""
    ids: set[str] = field(default_factory=set)
    """The ids of the messages that are not answered"""
    fault: str | None = None
    """The last answer that was not a profile, as a text"""

    def sent(self, id_: str | None, now: float) -> None:
        self.times += 1
        self.last = now
        self.put_off(now + QUERY_TIMEOUT)
        if id_ is not None:
            self.ids.add(id_)

    def put_off(self, now: float) -> None:
        self.again = now + min(ASK_AGAIN * 2 ** (self.times - 1), AT_MOST)


class NodeRegistry:
    """The nodes behind Flower's ``Grid``, and the clients of ``partitions`` that they host.

    Args:
        grid: Flower's grid.
        replies: How its replies are received.
        partitions: The clients. Without them, the clients are those that devices report to host, until ``close``.
        patience: Seconds from the first query in which a node that is online has to report its profile; ``None`` for
            no limit.
    """

    def __init__(
        self, grid: Grid, replies: LimitedReplies, partitions: Sequence[int] | None, patience: float | None = None
    ) -> None:
        self._grid, self._replies = grid, replies
        self.open = partitions is None
        """Whether the set of clients is still open"""
        self._partitions = list(partitions or ())
        self._patience = patience
        self._known: dict[int, NodeProfile] = {}
        """The profiles of the nodes that are online, in the order in which they joined"""
        self._questions: dict[int, _Question] = {}
        self._played: dict[int, int] = {}
        self._missing_since: dict[int, float] = {}
        self._warned: set[str] = set()
        self.simulated = True
        """Whether all nodes are Flower's simulated ones; once a device has joined, only devices host clients"""

    def node_of(self, partition: int) -> int | None:
        """Return the node that hosts the client, of several the one that joined first; ``None`` if there is none."""
        return self._played.get(partition)

    @property
    def nodes(self) -> dict[int, NodeProfile]:
        """The profile of the node of each partition, for the partitions that have a node."""
        return {partition: self._known[id_] for partition, id_ in sorted(self._played.items())}

    @property
    def partitions(self) -> list[int]:
        """The clients, as far as they are known."""
        return list(self._partitions)

    @property
    def missing(self) -> list[int]:
        """The clients without a node; while the set of clients is open, the first gaps in their numbers."""
        if not self.open:
            return [partition for partition in self._partitions if partition not in self._played]
        gaps = (each for each in range(max(self._played, default=-1)) if each not in self._played)
        return list(itertools.islice(gaps, SHOWN_GAPS))

    @property
    def present(self) -> set[int]:
        """The nodes that are online."""
        return self._known.keys() | self._questions.keys()

    @property
    def asking(self) -> bool:
        """Whether a node is online whose profile may still arrive."""
        return any(each.ids for each in self._questions.values())

    @property
    def strangers(self) -> list[str]:
        """Phrases about the nodes that are online and have not reported which client they host."""
        now = time.monotonic()
        return [
            f"node {id_} is online and cannot say which client it plays: {question.fault}"
            if question.fault is not None
            else f"node {id_} is online, was asked {now - question.first:.0f} seconds ago and has not answered yet"
            for id_, question in sorted(self._questions.items())
        ]

    def close(self) -> None:
        """Close the set of clients: no further ones are added."""
        self.open = False

    def given_up(self, partition: int) -> str | None:
        """Return why no node of this client is waited for any longer; ``None`` while it has one, or may get one."""
        now = time.monotonic()
        since = self._missing_since.get(partition)
        if since is None or now - since <= REJOIN:
            return None
        if any(each.ids and not self._late(each, now) for each in self._questions.values()):
            return None  # a node is online that has not reported its client, and may be the missing one
        return "; ".join([f"no node plays it, and none came within {REJOIN:.0f} seconds", *self.strangers])

    def _late(self, question: _Question, now: float) -> bool:
        return self._patience is not None and now - question.first > self._patience

    def refresh(self) -> None:
        """Update which nodes are online, read their answers, and query new nodes, all without waiting."""
        now = time.monotonic()
        before, present = list(self._known), set(self._grid.get_node_ids())
        # A node that comes back is queried again: it may have been restarted as another client.
        self._known = {id_: node for id_, node in self._known.items() if id_ in present}
        self._questions = {id_: question for id_, question in self._questions.items() if id_ in present}
        self._hear(now)
        self._ask(sorted(present - self._known.keys()), now)
        if list(self._known) != before:
            self._assign()
        for partition in self._partitions:
            if partition in self._played:
                self._missing_since.pop(partition, None)
            else:
                self._missing_since.setdefault(partition, now)

    def _hear(self, now: float) -> None:
        asked = {message: id_ for id_, question in self._questions.items() for message in question.ids}
        replies = list(self._replies.pull(asked))
        answers = [(asked[each.metadata.reply_to_message_id], each) for each in replies]
        for id_, reply in sorted(answers, key=lambda answer: answer[0]):
            question = self._questions[id_]
            question.ids.discard(reply.metadata.reply_to_message_id)
            try:
                self._known.setdefault(id_, _profile(reply))
            except ValueError as error:
                question.fault = one_line(str(error))
                self._warn_once(f"node {id_} is left out for now: {question.fault}")
                question.put_off(now)
        for id_ in self._known.keys() & self._questions.keys():
            del self._questions[id_]

    def _ask(self, unknown: Sequence[int], now: float) -> None:
        for id_, question in self._questions.items():
            if question.ids and self._late(question, now):
                self._warn_once(
                    f"node {id_} is left out for now: it is online, and has not answered within {self._patience:g} "
                    "seconds"
                )
        due = [id_ for id_ in unknown if id_ not in self._questions or self._questions[id_].again <= now]
        waiting = sum(bool(each.ids) and now - each.last <= QUERY_TIMEOUT for each in self._questions.values())
        due = sorted(due, key=lambda id_: (id_ in self._questions, id_))[: max(0, ASKED_AT_ONCE - waiting)]
        if due:
            questions = [Message(RecordDict({CONFIG: ConfigRecord()}), id_, QUERY_NODE) for id_ in due]
            for id_, message in zip(due, self._grid.push_messages(questions), strict=True):
                self._questions.setdefault(id_, _Question(now)).sent(message, now)

    def _assign(self) -> None:
        if self.open:
            self._partitions = sorted({node.partition for node in self._known.values() if not node.simulated})
        hosted = {id_: [each for each in self._partitions if node.hosts(each)] for id_, node in self._known.items()}
        if any(partitions and not self._known[id_].simulated for id_, partitions in hosted.items()):
            self.simulated = False
        self._played = {}
        for id_, partitions in hosted.items():
            node = self._known[id_]
            if node.partition not in self._partitions:
                self._warn_once(f"node {id_} is left out: there is no client {node.partition}")
            if node.simulated and not self.simulated:
                # It would host many clients, among them those of devices that are away.
                self._warn_once(f"node {id_} is left out: it says it is simulated, and others are devices")
                continue
            for partition in partitions:
                first = self._played.setdefault(partition, id_)
                if first != id_:
                    self._warn_once(f"nodes {first} and {id_} both say they play client {partition}: {first} does")

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            log.warning("%s", sentence)


def _profile(reply: Message) -> NodeProfile:
    """Return the profile in a node's reply.

    Raises:
        ValueError: If the reply is an error or has no profile, or a device claims to host several clients.
    """
    if reply.has_error():
        raise ValueError(one_line(reply.error.reason))
    told = reply.content.get(CONFIG)
    if not isinstance(told, ConfigRecord):
        raise ValueError("it does not say who it is")
    try:
        node = NodeProfile.of(told)
    except OverflowError as error:
        raise ValueError("it does not say who it is") from error
    if node.num_partitions > 0 and not node.simulated:
        raise ValueError("it is a device, and says it plays several clients")
    return node
