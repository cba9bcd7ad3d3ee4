"""The weighted mean, the aggregation in the papers of all methods here."""

from collections.abc import Mapping

import torch

from fedsim.aggregation.aggregation import Aggregation
from fedsim.aggregation.averaging import RunningAverage


class Mean(Aggregation):
    """The weighted mean, computed as a running sum: each reply is released before the next one is read."""

    def start(self, server_round: int, sent: Mapping[str, torch.Tensor]) -> RunningAverage:
        return RunningAverage()
