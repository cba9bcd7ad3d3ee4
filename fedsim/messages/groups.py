"""Groups of a cohort: successive clients whose replies are added up before their sum is added to the others.

Sums of floating-point numbers depend on their order. Since the groups do not depend on the engine, the process that has
trained a whole group, or its beginning, may add up its replies and send the sum alone, and the average is the same to
the last bit. The server then has neither these replies' arrays to receive nor to check nor to add.

A group is Flower's ``group_id`` of the messages, which replies repeat.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from flwr.app import Message

from fedsim.messages.schema import NUM_EXAMPLES, config_of, metrics_of, number

GROUP_SIZE = 4
"""Of clients; small, since an engine gives a worker whole groups only while there is enough for the other workers"""
ADD_UP = "add-up"
"""In the config of a training message, that the process which trains may add up replies, after it has checked them: the
weighting, a name in ``WEIGHTINGS``"""
ADDED_UP = "added-up"
"""In the config of a reply, that its arrays are in a sum: in the reply of the last client of the sum, under ``arrays``,
in float64. The others have none."""
T = TypeVar("T")
EXAMPLES, UNIFORM = "examples", "uniform"
WEIGHTINGS = (EXAMPLES, UNIFORM)


def group_of(place: int) -> str:
    """Return the ``group_id`` of the client at this place of a cohort."""
    return str(place // GROUP_SIZE)


def weight_of(reply: Message, weighting: str) -> float:
    """Return the weight of a reply in an average: its number of images, or 1 if ``uniform``."""
    return 1.0 if weighting == UNIFORM else number(metrics_of(reply), NUM_EXAMPLES)


def is_added_up(reply: Message) -> bool:
    """Return whether the arrays of a reply are in a sum."""
    return bool(config_of(reply).get(ADDED_UP, False))


def split_at_openings(items: Sequence[T], opens: Sequence[bool]) -> list[list[T]]:
    """Split successive items into groups; the first one may have begun before."""
    groups: list[list[T]] = []
    for item, first in zip(items, opens, strict=True):
        if first or not groups:
            groups.append([])
        groups[-1].append(item)
    return groups


def openings(messages: Sequence[Message]) -> Iterator[bool]:
    """Yield for each message whether it is the first one of its group."""
    group = None
    for message in messages:
        yield message.metadata.group_id != group
        group = message.metadata.group_id
