"""The learning rate of clients by round: constant, a cosine, or steps."""

import math
from dataclasses import dataclass

from fedsim.core.errors import UserError

SCHEDULES = ("constant", "cosine", "step")


@dataclass(frozen=True)
class LearningRateSchedule:
    r"""A factor of the learning rate for each round t = 1, 2, ..., T.

    ``constant`` is 1, ``cosine`` is :math:`\frac{1}{2} (1 + \cos(\pi (t - 1) / T))`, which begins at 1 and would be 0
    in the round after the last, and ``step`` is :math:`d^{\lfloor (t - 1) / R \rfloor}`.
    """

    name: str = "constant"
    rounds: int = 1
    """T, for ``cosine``"""
    decay: float = 1.0
    """d, for ``step``"""
    decay_rounds: int = 1
    """R, for ``step``"""

    def factor(self, server_round: int) -> float:
        """Return the factor of a round; before the first round it is 1.

        Raises:
            ValueError: If the schedule is unknown.
        """
        done = max(server_round - 1, 0)
        if self.name == "constant":
            return 1.0
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(done / self.rounds, 1)))
        if self.name == "step":
            return float(self.decay ** (done // self.decay_rounds))
        raise ValueError(f"lr_schedule={self.name} is not known")


def refuse_wrong_decay(schedule: str, decay: float | None, decay_rounds: int | None) -> None:
    """Refuse ``lr_schedule=step`` without its two options, and these options with another schedule.

    Raises:
        UserError: If one of the options is missing or would not be used.
    """
    for key, value in (("lr_decay", decay), ("lr_decay_rounds", decay_rounds)):
        if schedule == "step" and value is None:
            raise UserError(
                f"{key}=null is not possible with lr_schedule=step: choose both, as lr_decay=0.1 lr_decay_rounds=30."
            )
        if schedule != "step" and value is not None:
            raise UserError(
                f"{key}={value} is not used with lr_schedule={schedule}: leave it out, or choose lr_schedule=step."
            )
