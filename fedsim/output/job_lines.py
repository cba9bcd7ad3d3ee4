"""The line with which each job of a sweep begins."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedsim.output.forecast import left_in_words


@dataclass(frozen=True)
class JobLines:
    """What is known of the jobs of a sweep when it begins; the processes of a launcher are given a copy."""

    names: Mapping[int, str]
    """What tells each job from the others, by number: ``strategy=fedbn lr=0.1``; of a sweep that goes on only of the
    jobs that are not finished"""
    total: int
    """How many jobs there are, with those that are finished"""
    began: float = field(default_factory=time.time)
    """When the first of these jobs began, by a clock that other processes have, too"""

    @classmethod
    def of(cls, jobs: Sequence[Sequence[str]], finished: Sequence[int] = ()) -> "JobLines":
        """Return the lines of jobs with these words, of which some were finished before."""
        common = set(jobs[0]).intersection(*jobs) if len(jobs) > 1 else set()
        names = {
            number: " ".join(word for word in words if word not in common)
            for number, words in enumerate(jobs)
            if number not in finished
        }
        return cls(names, len(jobs))

    def line(self, number: int, at_once: int | None = 1) -> str:
        """Return the line of a job that begins now: which it is, and when all will be done.

        Jobs begin as fast as others end. So those that remain, this one among them, need the time until now over the
        number of jobs that have begun before, each; one job after the other, this is the mean duration of those before.

        Args:
            number: The number of the job, from 0.
            at_once: How many jobs run at once; ``None`` if that is not known, and with it no end.
        """
        begun = list(self.names).index(number)
        shown = f"job {number + 1} of {self.total}: {self.names[number]}"
        if at_once is None or begun < at_once:
            return shown
        left = (time.time() - self.began) / begun * (len(self.names) - begun)
        return f"{shown}  (all jobs: {left_in_words(left)})"
