"""What is simulated: the cases by name, and the task that one contestant is given."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

CLASSES = 10
IMAGE_SHAPE = (3, 28, 28)
BATCH_SIZE = 32
LEARNING_RATE = 0.01
MOST_TESTS = 1000


@dataclass(frozen=True)
class Case:
    clients: int
    images: int
    """Training images of each client"""
    network: str = "fedsim.models.CNNSmall"
    sampled: int | None = None
    """Clients of a round; ``None`` for all"""
    evaluates: bool = False
    """Whether every contestant tests the model after each round, on as many images as are trained"""

    @property
    def cohort(self) -> int:
        return self.clients if self.sampled is None else self.sampled

    @property
    def tests(self) -> int:
        """Return the number of test images; a contestant that evaluates by default does so on few of them."""
        trained = self.clients * self.images
        return trained if self.evaluates else min(MOST_TESTS, trained // 10)


CASES = {
    "small": Case(50, 64),
    "large": Case(5, 743, "fedsim.models.CNN6"),
    "toy": Case(200, 8, "benchmarks.contestants.networks.OneLayer"),
    "cohort_1000": Case(1000, 8),
    "cohort_10000": Case(10_000, 8),
    "ten_of_10000": Case(10_000, 8, sampled=10),
    "population": Case(100_000, 2, sampled=100),
    "evaluation": Case(5, 743, "fedsim.models.CNN6", evaluates=True),
}


@dataclass(frozen=True)
class Task:
    """What one contestant is to do in one process."""

    contestant: str
    case: str
    folder: str
    """Where the images lie"""
    rounds: int
    workers: int
    seed: int

    @property
    def what(self) -> Case:
        return CASES[self.case]

    @property
    def data(self) -> Path:
        return Path(self.folder)

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "Task":
        return cls(**json.loads(text))
