"""The settings of training that all methods share, of the server and of the clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsim.aggregation.aggregation import Aggregation
from fedsim.aggregation.mean import Mean
from fedsim.client.lr_schedule import LearningRateSchedule


@dataclass(frozen=True)
class ServerTraining:
    """Arguments of every server strategy beside the model and its own options."""

    weighting: str | None = None
    """``examples``, ``uniform``, or ``None`` for that of the method's paper or official code."""
    fraction: float = 1.0
    """Share of the clients in each round's cohort, in (0, 1]; .5 is rounded up, and at least one client is drawn."""
    seed: int = 0
    """Decides what a method draws on the server, and the cohorts."""
    cohort_seed: int | None = None
    """Decides the cohorts, round r draws the same clients whatever happened before; ``None`` for ``seed``."""
    aggregation: Aggregation = field(default_factory=Mean)
    """Combines the replies to one model, such as ``fedsim.aggregation.Median()``; metrics are always averaged."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images, for a method that runs the network on the server."""
    client_sizes: Mapping[int, float] = field(default_factory=dict)
    """For a method with a ``size_option``, the size of the submodel by client, for clients that train only one."""


@dataclass(frozen=True)
class LocalTraining:
    """Arguments of every local trainer beside its own options."""

    local_epochs: int
    batch_size: int
    lr: float
    momentum: float
    optimizer: str = "sgd"
    weight_decay: float = 0.0
    schedule: LearningRateSchedule = field(default_factory=LearningRateSchedule)
    drop_last: bool = False
    """Whether a pass leaves out a last batch that is smaller than ``batch_size``, unless it is the only one."""

    def lr_in(self, server_round: int) -> float:
        """Return the learning rate of a round."""
        return self.lr * self.schedule.factor(server_round)
