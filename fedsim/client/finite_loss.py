"""The step in which a training diverges: the first loss that is not a finite number ends it."""

from math import isfinite

import torch

from fedsim.core.errors import FedsimError
from fedsim.methods.interfaces import TrainingContext


class Diverged(FedsimError):
    """A loss that is not finite: the sentence names the round and the step; the server adds the client."""


class FiniteLoss:
    """Watches the losses of one training.

    On the CPU a loss is looked at in its step, before it changes a weight. On a GPU this would stop the pipeline in
    every step, so there the losses of a pass are looked at behind it.
    """

    def __init__(self, context: TrainingContext) -> None:
        self._context = context
        self._unseen: list[torch.Tensor] = []
        self._first = 0
        """The step of the first loss in ``_unseen``"""

    def see(self, loss: torch.Tensor) -> None:
        """Process the loss of the step that is being made.

        Raises:
            Diverged: If it is not finite.
        """
        if not self._unseen:
            self._first = self._context.step
        self._unseen.append(loss.detach())
        if loss.device.type == "cpu":
            self.settle()

    def settle(self) -> None:
        """Look at the losses that have not been looked at.

        Raises:
            Diverged: If one is not finite; names the first.
        """
        values = torch.stack(self._unseen).tolist() if self._unseen else []
        self._unseen.clear()
        for step, value in enumerate(values, start=self._first):
            if not isfinite(value):
                raise Diverged(
                    f"its training loss is {value} in step {step + 1} of {self._context.steps} of round "
                    f"{self._context.round}: a smaller lr, or clipping, may be needed"
                )
