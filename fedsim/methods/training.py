"""The settings of training that every method has: the server's and the clients'."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedsim.aggregation.aggregation import Aggregation
from fedsim.aggregation.mean import Mean


@dataclass(frozen=True)
class ServerTraining:
    """What every server strategy is handed beside the model and its own options."""

    weighting: str | None = None
    """``examples``, ``uniform``, or ``None`` for what the method's paper or code has"""
    fraction: float = 1.0
    """Share of the clients in each round's cohort, in (0, 1]; halves are rounded up, and at least one is drawn"""
    seed: int = 0
    """Decides the cohorts: round r draws the same clients whatever happened before"""
    aggregation: Aggregation = field(default_factory=Mean)
    """What makes one model of the replies, such as ``fedsim.aggregation.Median()``; metrics are always averaged"""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width) of the images, for a method that runs the network on the server"""
    client_sizes: Mapping[int, float] = field(default_factory=dict)
    """For a ``Resizable`` method, the clients whose devices train a smaller network than the server keeps"""


@dataclass(frozen=True)
class LocalTraining:
    """What every local trainer is handed beside its own options."""

    local_epochs: int
    batch_size: int
    lr: float
    momentum: float
    optimizer: str = "sgd"
    weight_decay: float = 0.0
