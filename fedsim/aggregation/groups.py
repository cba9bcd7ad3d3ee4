"""Adds up replies of a group where they are made; ``fedsim/messages/groups.py`` says why the average is the same."""

from flwr.app import Message

from fedsim.aggregation.averaging import WeightedSum
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.groups import ADDED_UP, weight_of
from fedsim.messages.schema import ARRAYS, arrays_of, config_of


class GroupSum:
    """Takes the arrays of successive replies, from the first of a group on, and gives their sum to the last one.

    Args:
        weighting: A name in ``WEIGHTINGS``.
    """

    def __init__(self, weighting: str) -> None:
        self._weighting = weighting
        self._total = WeightedSum()
        self._last: Message | None = None

    def take(self, reply: Message) -> None:
        """Add the arrays of a checked reply, which loses them."""
        self._total.add(to_tensors(arrays_of(reply)), weight_of(reply, self._weighting))
        reply.content.pop(ARRAYS, None)
        config_of(reply)[ADDED_UP] = True
        self._last = reply

    def give(self) -> None:
        """Give the sum to the reply that was taken last, if there is one."""
        if self._last is not None:
            self._last.content[ARRAYS] = to_record(self._total.tensors)
