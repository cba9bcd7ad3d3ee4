"""FBN's client (Guerraoui et al. 2024, arXiv 2405.14670): it normalizes by the federation's statistics."""

from torch import nn

from clients.local_sgd import LocalSGD
from fedsim.methods.interfaces import TrainingContext
from fedsim.norms.statistics import averages_of_batches, frozen_statistics


class FBN(LocalSGD):
    """Trains with BatchNorm layers that normalize by the statistics that were sent, as at evaluation.

    No gradient flows through statistics. Meanwhile the means and biased variances of the batches are averaged, each
    batch alike, and take the place of the statistics in the reply.
    """

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train, and leave the averages in the model."""
        with frozen_statistics(model), averages_of_batches(model):
            return super().passes(model, context)
