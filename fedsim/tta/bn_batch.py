"""``tta=bn_batch``: BatchNorm by the statistics of the test batch (Nado et al. 2020, arXiv 2006.10963)."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from fedsim.norms.statistics import batch_statistics
from fedsim.tta.adaptation import Adaptation, Batches, check_batch_size, check_running_statistics


class BatchStatistics(Adaptation):
    """Mean and biased variance of each test batch replace the running ones; nothing is trained."""

    def __init__(self, batch_size: int) -> None:
        check_batch_size(batch_size)
        self.batch_size = batch_size

    def check(self, model: nn.Module) -> None:
        check_running_statistics(model, "bn_batch")

    @contextmanager
    def adapting(self, model: nn.Module, source: Batches) -> Iterator[None]:
        with batch_statistics(model):
            yield
