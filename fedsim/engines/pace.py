"""How many clients a worker is sent at once, and how early, from what clients took before.

Each message between processes takes some time, and a worker that has answered waits for the next one. So clients that
take little time are sent several at once, and the next ones before these are answered. Neither changes a number.
"""

from math import inf

from flwr.app import Message

from fedsim.messages.groups import ADD_UP, GROUP_SIZE
from fedsim.messages.schema import config_of

WORTH_SENDING = 0.1
"""Seconds of work for which it is worth sending a message: so many clients are sent at once, but not more than ..."""
MOST_AT_ONCE = 32
WORTH_ADDING_UP = 0.2
"""Seconds of work for which a whole group of clients is sent at once if their replies can be added up"""
QUICK = 0.2
"""Seconds: where a batch takes no longer, workers have the next one early. Of slow clients each goes to who is idle."""
AT_WORKER = 2
"""Batches that a worker has at most: the one that it computes, and the next one"""
AHEAD = 2
"""Times a worker may be sent clients before an earlier one's are answered, and once more if it has the next ones early;
bounds the replies that wait in memory."""


class Pace:
    """Knows what a client takes, by type of message.

    Args:
        early: Whether a worker that computes can be sent the next clients.
    """

    def __init__(self, *, early: bool = True) -> None:
        self._early = early
        self._seconds: dict[str, float] = {}

    def note(self, message: Message, seconds: float) -> None:
        """Note what a client took: slow ones at once, so that few of them are sent together; fast ones by halves."""
        before = self._seconds.get(message.metadata.message_type, seconds)
        self._seconds[message.metadata.message_type] = max(seconds, (seconds + before) / 2, 1e-6)

    def at_once(self, message: Message, left: int, workers: int) -> int:
        """Return how many clients to send a worker at once: fewer at the end, so that all workers end together.

        Args:
            message: A message as all that are to be sent.
            left: How many these are.
            workers: How many workers there are.
        """
        return max(1, min(self._worth_sending(message), left // (2 * workers)))

    def batches(self, message: Message, left: int, workers: int) -> int:
        """Return how many batches each worker may have: one at the end, so that all workers end together."""
        return AT_WORKER if left > workers and self._is_quick(message) else 1

    def ahead(self, message: Message, workers: int) -> int:
        """Return how many clients may be sent or answered from the first one on that is not answered."""
        return (AHEAD + self._is_quick(message)) * workers * self._worth_sending(message)

    def _is_quick(self, message: Message) -> bool:
        return self._early and self._of(message) * self._worth_sending(message) <= QUICK

    def _worth_sending(self, message: Message) -> int:
        each = self._of(message)
        worth_it = min(MOST_AT_ONCE, int(WORTH_SENDING / each))
        if ADD_UP in config_of(message) and each * GROUP_SIZE <= WORTH_ADDING_UP:
            worth_it = max(worth_it, GROUP_SIZE)
        return max(1, worth_it)

    def _of(self, message: Message) -> float:
        return self._seconds.get(message.metadata.message_type, inf)
