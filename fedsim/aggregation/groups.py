"""Adds up replies of one group where they are made; ``fedsim/messages/groups.py`` says why the average is the same."""

from collections.abc import Sequence

from flwr.app import Message

from fedsim.aggregation.averaging import WeightedSum
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.groups import ADDED_UP, weight_of
from fedsim.messages.schema import ARRAYS, arrays_of, config_of


def add_up(replies: Sequence[Message], opens: Sequence[bool], weighting: str) -> None:
    """Replace, in place, the arrays of the replies of a group by their sum.

    A group of which the first message is not among them is left as it is: its sum has begun elsewhere. So is a reply
    that would be alone in its sum.

    Args:
        replies: Checked replies, or errors, in the order of the cohort.
        opens: Whether each is the first of its group.
        weighting: A name in ``WEIGHTINGS``.
    """
    runs: list[list[Message]] = []
    begun = False
    for reply, first in zip(replies, opens, strict=True):
        if first:
            begun = True
            runs.append([])
        if begun and not reply.has_error():
            runs[-1].append(reply)
    for run in runs:
        if len(run) > 1:
            _add_up(run, weighting)


def _add_up(replies: Sequence[Message], weighting: str) -> None:
    total = WeightedSum()
    for reply in replies:
        total.add(to_tensors(arrays_of(reply)), weight_of(reply, weighting))
        reply.content.pop(ARRAYS, None)
        config_of(reply)[ADDED_UP] = True
    replies[-1].content[ARRAYS] = to_record(total.tensors)
