"""Which nodes are there and which clients they play, while nodes come, go, and are asked who they are."""

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedsim.deployment.devices.node import NodeProfile
from fedsim.deployment.error_text import one_line
from fedsim.messages.schema import CONFIG, QUERY_NODE

log = logging.getLogger(__name__)

REJOIN = 120.0
"""Seconds that a client's node may be away before all goes on without it; Flower needs 60 to notice a death."""
QUERY_TIMEOUT = 300.0
"""Seconds after which a question that is not answered may be lost; a second one makes a slow device slower."""
ASK_AGAIN, AT_MOST = 60.0, 960.0
"""Seconds until a node that failed to say it is asked again, doubled each time: on a device, each is a process."""
SHOWN_GAPS = 10


@dataclass
class _Question:
    """To one node, who it is, until it has said so."""

    first: float
    """When it was asked first"""
    times: int = 0
    again: float = 0.0
    """When it may be asked once more"""
    ids: set[str] = field(default_factory=set)
    """The messages that are not answered"""
    fault: str | None = None
    """What it answered instead, last"""

    def sent(self, id_: str | None, now: float) -> None:
        self.times += 1
        self.put_off(now + QUERY_TIMEOUT)
        if id_ is not None:
            self.ids.add(id_)

    def put_off(self, now: float) -> None:
        self.again = now + min(ASK_AGAIN * 2 ** (self.times - 1), AT_MOST)


class Roll:
    """The nodes behind Flower's ``Grid``, and the clients of ``partitions`` that they play.

    Without ``partitions`` the clients are those that devices say they play, until ``close``. Who is online and has not
    said who it is has ``patience`` seconds for it, from the first question on; ``None`` for as long as it takes.
    """

    def __init__(self, grid: Grid, partitions: Sequence[int] | None, patience: float | None = None) -> None:
        self._grid = grid
        self.open = partitions is None
        """Whether it is still open which clients there are"""
        self._partitions = list(partitions or ())
        self._patience = patience
        self._known: dict[int, NodeProfile] = {}
        """What those that are there have told, in the order in which they came"""
        self._questions: dict[int, _Question] = {}
        self._played: dict[int, int] = {}
        self._missing_since: dict[int, float] = {}
        self._warned: set[str] = set()
        self.simulated = True
        """Whether all are nodes of Flower's simulation; once a device has come, only devices play"""

    def node_of(self, partition: int) -> int | None:
        """The node that plays it, the one that came first of several; ``None`` if there is none."""
        return self._played.get(partition)

    @property
    def nodes(self) -> dict[int, NodeProfile]:
        """What the node of each partition told, for the partitions that are played."""
        return {partition: self._known[id_] for partition, id_ in sorted(self._played.items())}

    @property
    def partitions(self) -> list[int]:
        """The clients that there are, as far as that is known."""
        return list(self._partitions)

    @property
    def missing(self) -> list[int]:
        """The clients that nobody plays; while it is open who they are, the first gaps in their numbers."""
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
        """Whether somebody is online who may still say who it is."""
        return any(each.ids for each in self._questions.values())

    @property
    def strangers(self) -> list[str]:
        """In words, who is online and has not said which client it plays."""
        now = time.monotonic()
        return [
            f"node {id_} is online and cannot say which client it plays: {question.fault}"
            if question.fault is not None
            else f"node {id_} is online, was asked {now - question.first:.0f} seconds ago and has not answered yet"
            for id_, question in sorted(self._questions.items())
        ]

    def close(self) -> None:
        """No further clients."""
        self.open = False

    def given_up(self, partition: int) -> str | None:
        """Why nobody waits any longer for a node that plays it; ``None`` while there is one, or may soon be."""
        now = time.monotonic()
        since = self._missing_since.get(partition)
        if since is None or now - since <= REJOIN:
            return None
        if any(each.ids and not self._late(each, now) for each in self._questions.values()):
            return None  # somebody is online who has not said who it is, and may be who is missing
        return "; ".join([f"no node plays it, and none came within {REJOIN:.0f} seconds", *self.strangers])

    def _late(self, question: _Question, now: float) -> bool:
        return self._patience is not None and now - question.first > self._patience

    def refresh(self) -> None:
        """Looks who is there and what they have answered, and asks who is new; waits for nothing."""
        now = time.monotonic()
        before, present = list(self._known), set(self._grid.get_node_ids())
        # Who comes back is asked anew: it may have been started again as another client.
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
        replies = list(self._grid.pull_messages(list(asked))) if asked else []
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
                # It would play many clients, those of devices that are away among them.
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
    """Errors: ``ValueError`` for whatever is not the profile of a node."""
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
