"""Detection of divergence: a warning when the training loss of a round jumps by orders of magnitude."""

import logging
import math

log = logging.getLogger(__name__)

RISE = 10.0
"""The factor over the lowest training loss of earlier rounds that counts as a jump."""
SHARE_OF_FIRST = 0.5
"""The share of the first round's loss that a jump must also reach: a rise from 0.0001 to 0.001 is harmless."""


class LossWatch:
    """Watches the training loss over the rounds and warns of the rounds in which it jumps."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._lowest = math.inf
        self._high = False

    def see(self, round: int, loss: float) -> None:
        """Process the mean training loss of a round; warn in the first round of each jump."""
        if self._jumped(loss):
            log.warning(
                "training is unstable: the training loss rose from %.3g to %.3g in round %d; a smaller lr, or "
                "clipping, may be needed",
                *(self._lowest, loss, round),
            )

    def remember(self, loss: float) -> None:
        """Process the loss of a round before the run was resumed, without a warning."""
        self._jumped(loss)

    def _jumped(self, loss: float) -> bool:
        before = self._high
        if self._first is None:
            self._first = loss
        self._high = loss >= RISE * self._lowest and loss >= SHARE_OF_FIRST * self._first
        self._lowest = min(self._lowest, loss)
        return self._high and not before
