"""Faults of clients that a simulation injects, and its clock: who drops out, is late, or sends what is wrong.

All of it is drawn by the seed, the round and the client, and the clock is simulated, so that a run with faults is as
repeatable as one without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, fsum, inf, isclose
from typing import Any

import numpy as np

from fedsim.config.binding import instantiate
from fedsim.core.errors import UserError
from fedsim.core.seeding import numpy_generator

DROP_OUT, CRASH, EXHAUST, NOT_FINITE, GARBAGE, OLD = "drop_out", "crash", "exhaust", "not_finite", "garbage", "old"
MOST_JITTER = 10
"""e^10 times the time of a client, or a part of it, for each standard deviation"""
DRAWN = (DROP_OUT, CRASH, EXHAUST, NOT_FINITE, GARBAGE, OLD)
"""The faults of which each client has at most one in a round."""
ANSWERED, LATE, NOT_NEEDED = "answered", "late", "not_needed"
ABSENT = (DROP_OUT, LATE, NOT_NEEDED)
"""The outcomes without a reply."""


@dataclass(frozen=True)
class Attendance:
    """What becomes of a client in a round."""

    outcome: str
    """``answered``, one of ``DRAWN``, ``late`` or ``not_needed``"""
    seconds: float
    """Simulated time from the message to the reply, if there were one"""


@dataclass(frozen=True)
class Faults:
    r"""Injects faults into the rounds of a simulation, in the given shares (``faults=injected``).

    A client k with n images in a pass takes :math:`n E s \cdot f_k \cdot e^{\sigma z}` simulated seconds for E epochs,
    where s is ``seconds_per_image``, f is ``slowdown`` for the share ``slow`` of the clients and 1 for the others,
    :math:`\sigma` is ``jitter``, and z is drawn from a normal distribution for each round. With ``over_selection``
    more clients are asked than are needed, and the first answers are taken; after ``deadline`` none is (Bonawitz et
    al., MLSys 2019, arXiv 1902.01046). A client whose answer is not taken is told to stop: what it keeps stays as it
    was.

    Raises:
        UserError: If an option is not possible.
    """

    drop_out: float = 0.0
    crash: float = 0.0
    exhaust: float = 0.0
    not_finite: float = 0.0
    garbage: float = 0.0
    old: float = 0.0
    garbage_scale: float = 1.0
    slow: float = 0.0
    slowdown: float = 5.0
    seconds_per_image: float = 0.01
    jitter: float = 0.0
    deadline: float | None = None
    over_selection: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*DRAWN, "slow"):
            self._refuse_unless(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        for name in ("garbage_scale", "seconds_per_image"):
            self._refuse_unless(name, 0 < getattr(self, name) < inf, "a number above 0")
        for name in ("slowdown", "over_selection"):
            self._refuse_unless(name, 1 <= getattr(self, name) < inf, "a number of at least 1")
        self._refuse_unless("jitter", 0 <= self.jitter <= MOST_JITTER, f"a number from 0 to {MOST_JITTER}")
        self._refuse_unless("deadline", self.deadline is None or self.deadline > 0, "a number above 0, or null")
        total = fsum(self.shares.values())
        if total > 1 and not isclose(total, 1):  # 0.4, 0.3, 0.2 and 0.1 are more than 1 in binary
            shares = ", ".join(f"faults.{name}={share:g}" for name, share in self.shares.items())
            raise UserError(f"{shares} are {total:g} together: choose shares that are at most 1 together.")

    def _refuse_unless(self, name: str, possible: bool, allowed: str) -> None:
        if not possible:
            raise UserError(f"faults.{name}={getattr(self, name)} is not possible: choose {allowed}.")

    @property
    def shares(self) -> dict[str, float]:
        """The shares of the faults in ``DRAWN`` that are above 0."""
        return {name: getattr(self, name) for name in DRAWN if getattr(self, name) > 0}

    def check(self, fraction: float, min_fraction_success: float, *, on_devices: bool) -> None:
        """Check the settings beside these options.

        Raises:
            UserError: If a fault would end the run, nobody more could be asked, or the clients are real devices.
        """
        if on_devices:
            raise UserError("faults=injected is for simulations, and real devices have their own: choose faults=none.")
        failing = {**self.shares, **({} if self.deadline is None else {"deadline": self.deadline})}
        if failing and min_fraction_success == 1:
            name, value = next(iter(failing.items()))
            raise UserError(
                f"faults.{name}={value:g} lets clients fail, and with min_fraction_success=1 the first that does ends "
                "the run: choose min_fraction_success=0.5, or faults=none."
            )
        if self.over_selection > 1 and fraction == 1:
            raise UserError(
                f"faults.over_selection={self.over_selection:g} finds nobody more to ask with fraction=1: choose "
                "fraction=0.5, or faults.over_selection=1."
            )

    def drawn(self, round: int, client: int) -> str | None:
        """Return the fault of a client in a round, one of ``DRAWN``, or ``None``."""
        number = numpy_generator(self.seed, "faults", round=round, client=client).random()
        for name, end in zip(self.shares, np.cumsum(list(self.shares.values())), strict=True):
            if number < end:
                return name
        return None

    def seconds(self, round: int, client: int, images: int) -> float:
        """Return the simulated time of a client in a round for so many images, of all its passes."""
        is_slow = numpy_generator(self.seed, "slow clients", client=client).random() < self.slow
        wobble = numpy_generator(self.seed, "jitter", round=round, client=client).normal() if self.jitter else 0.0
        return float(images * self.seconds_per_image * (self.slowdown if is_slow else 1) * exp(self.jitter * wobble))

    def attendance(self, round: int, images: Mapping[int, int], needed: int) -> dict[int, Attendance]:
        """Return what becomes of each client of the cohort.

        Args:
            round: The round.
            images: By client, the images of all its passes.
            needed: How many answers are taken; of equal times the smaller client number is first.
        """
        faults = {client: self.drawn(round, client) for client in images}
        times = {client: self.seconds(round, client, count) for client, count in images.items()}
        taken = 0
        found: dict[int, Attendance] = {}
        for client in sorted(images, key=lambda each: (times[each], each)):
            outcome = faults[client] or ANSWERED
            if outcome != DROP_OUT and taken == needed:
                outcome = NOT_NEEDED
            elif outcome != DROP_OUT and self.deadline is not None and times[client] > self.deadline:
                outcome = LATE
            elif outcome not in (DROP_OUT, CRASH, EXHAUST):
                taken += 1  # the server knows what is wrong with an answer once it has it
            found[client] = Attendance(outcome, times[client])
        return {client: found[client] for client in images}

    def round_seconds(self, attendances: Mapping[int, Attendance]) -> float:
        """Return the simulated time of a round: until its last answer, or until the deadline if one is late.

        That a client has dropped out is noticed at once.
        """
        if self.deadline is not None and any(each.outcome == LATE for each in attendances.values()):
            return self.deadline
        return max((each.seconds for each in attendances.values() if each.outcome not in ABSENT), default=0.0)


def no_faults() -> None:
    """Inject nothing (``faults=none``): clients answer, unless they fail by themselves."""


def faults_of(options: Mapping[str, Any], seed: int) -> Faults | None:
    """Return the faults of the group ``faults``; ``None`` if there are none.

    Raises:
        UserError: If an option is not possible.
    """
    faults: Faults | None = instantiate("faults", options, offered={"seed": seed})
    return faults
