"""Federated BatchNorm (Guerraoui et al. 2024, arXiv 2405.14670): clients normalize by global statistics in training."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import PooledMoments
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_tensors
from fedsim.messages.schema import NUM_EXAMPLES, arrays_of, metrics_of, number
from fedsim.methods.training import ServerTraining
from fedsim.norms.gathered import refuse_kept_statistics
from fedsim.norms.statistics import statistics_entries

from .fedavg import FedAvg, Tensors

MEAN, VARIANCE = "running_mean", "running_var"


class FBN(FedAvg):
    r"""Averages parameters as FedAvg does, and pools the statistics of the clients' batches for the next round.

    Client k normalizes by the global statistics that it was sent and returns averages over its batches
    (``clients/fbn.py``), :math:`\mu_k` and :math:`\sigma_k^2`. With its :math:`n_k` images, n in all, and the
    ``rate`` r,

    .. math:: \mu_G \leftarrow \frac{r}{n} \sum_k n_k \mu_k + (1 - r) \, \mu_G, \qquad
        \sigma_G^2 \leftarrow \frac{r}{n - 1} \sum_k n_k \big( \sigma_k^2 + (\mu_k - \mu_G)^2 \big)
        + (1 - r) \, \sigma_G^2

    with the new :math:`\mu_G` in the second formula. These formulas and r = 0.1 are those with which the authors of HBN
    compare (Hongyao-Chen/HybridBN, 1c0e151); FBN's own authors have published no code, and of their paper only the
    abstract and the introduction were consulted. Their defence against clients that lie about statistics is left out.

    Args:
        rate: r, above 0 and at most 1.

    Raises:
        UserError: If the model has no BatchNorm with running statistics, ``rate`` is out of its range, or the
            aggregation adds noise.
    """

    def __init__(self, model: nn.Module, training: ServerTraining | None = None, *, rate: float = 0.1) -> None:
        super().__init__(model, training)
        refuse_noise(self.aggregation, "strategy=fbn", "statistics of their images")
        if not 0 < rate <= 1:
            raise UserError(f"strategy.rate={rate} is not possible: choose a number above 0 and at most 1.")
        self.statistics = frozenset(statistics_entries(model))
        if not self.statistics:
            raise UserError(
                "strategy=fbn needs BatchNorm layers with running statistics, and this network has none: choose "
                "norm=bn without norm.statistics=none, and a model with BatchNorm."
            )
        self.rate = rate
        self._pooled = PooledMoments()

    def keep_on_clients(self, entries: Iterable[str]) -> None:
        """Refuse to keep statistics on clients: the server pools them.

        Raises:
            UserError: If statistics are among the entries.
        """
        kept = frozenset(entries)
        refuse_kept_statistics(kept & self.statistics, "fbn")
        super().keep_on_clients(kept)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort."""
        self._pooled = PooledMoments()
        return super().configure_train(server_round, arrays, config, grid)

    def read_reply(self, reply: Message) -> None:
        """Pool the statistics of the client's batches."""
        super().read_reply(reply)
        sent = to_tensors(arrays_of(reply))
        layers = [name.removesuffix(MEAN) for name in self.statistics if name.endswith(MEAN)]
        means, variances = ({layer: sent[layer + kind] for layer in layers} for kind in (MEAN, VARIANCE))
        self._pooled.add(means, variances, number(metrics_of(reply), NUM_EXAMPLES))

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Move the global statistics."""
        before, moved = self.sent_tensors, {}

        def move(kind: str, pooled: Tensors) -> Tensors:
            for layer, value in pooled.items():
                name = layer + kind
                exact = self.rate * value + (1 - self.rate) * before[name].double().to(value.device)
                moved[name] = exact.to(before[name].dtype)
            return {layer: moved[layer + kind] for layer in pooled}

        centres = move(MEAN, self._pooled.mean())
        move(VARIANCE, self._pooled.variance(centres))
        return {**arrays, **moved}
