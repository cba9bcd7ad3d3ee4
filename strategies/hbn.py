"""Hybrid Batch Normalisation (Chen et al., ICML 2025, arXiv 2505.21877): statistics are gathered apart from weights."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import PooledMoments
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.cost import QueryPasses, Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, CONFIG, NUM_EXAMPLES, ROUND, arrays_of, metrics_of, number
from fedsim.methods.queries import ask
from fedsim.methods.reply_records import Question, ReplyFault, refuse_other_form, refuse_other_names
from fedsim.methods.reply_records import Tensors as Reported
from fedsim.methods.training import ServerTraining
from fedsim.norms import hybrid_layers
from fedsim.norms.gathered import refuse_kept_statistics

from .fedavg import ConfigValue, FedAvg, Tensors

STATISTICS = "statistics"
"""The record of a reply, and the query, with means and variances under the names of the evaluation's."""
IMAGES = "statistics-images"
"""The largest number of images on which a client gathers them, in the config of a message."""


def check_statistics(tensors: Reported, question: Question) -> None:
    """Refuse statistics of other layers than the model's, in another form, or with a negative variance.

    Raises:
        ReplyFault: For the first such entry; the message names it.
    """
    of_training = [name for name in question.initial if name.endswith(".global_mean") or name == "global_mean"]
    means = [name.removesuffix("global_mean") + "running_mean" for name in of_training]
    variances = [name.removesuffix("mean") + "var" for name in means]
    refuse_other_names(tensors, [*means, *variances], STATISTICS)
    for name, tensor in tensors.items():
        refuse_other_form(name, tensor, question.initial[name])
    for name in variances:
        if (tensors[name] < 0).any():
            raise ReplyFault(f"it sent a negative variance in {name}")


class HBN(FedAvg):
    r"""Averages parameters as FedAvg does, and gathers the statistics of ``norm=hbn`` in passes without training.

    Before client k of the cohort trains, it lets its first ``images`` images, :math:`n_k` of them, through the model
    that it was sent, and reports the means :math:`\mu_k` and variances :math:`\sigma_k^2` by which its layers
    normalized them: mixtures of the batch's and the global statistics by its own factor. The server pools them and
    moves the global statistics of training by the ``rate`` r,

    .. math:: \mu = \frac{1}{n} \sum_k n_k \mu_k, \qquad
        \sigma^2 = \frac{1}{n - 1} \sum_k n_k \big( \sigma_k^2 + (\mu_k - \mu)^2 \big), \qquad
        \mu_G \leftarrow r \mu + (1 - r) \mu_G, \qquad \sigma_G^2 \leftarrow r \sigma^2 + (1 - r) \sigma_G^2

    and once the models are averaged asks the clients that have replied for the same of the new model. What it pools of
    their answers are the statistics of evaluation. A client keeps its own factor (``clients/hbn.py``); the average of
    the factors is where one starts that has none.

    All of this is the authors' code (Hongyao-Chen/HybridBN, 1c0e151), in which the paper's text was not consulted.
    There images are augmented in these passes, too; here they are not.

    Args:
        images: Number of images, at least 1.
        rate: r, above 0 and at most 1.

    Raises:
        UserError: If the model has no hybrid layer, an option is out of its range, or the aggregation adds noise.
    """

    reply_records = MappingProxyType({STATISTICS: check_statistics})
    queries = MappingProxyType({STATISTICS: check_statistics})
    gathers_statistics = True

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        images: int = 64,
        rate: float = 0.002,
    ) -> None:
        super().__init__(model, training)
        refuse_noise(self.aggregation, "strategy=hbn", "statistics of their images")
        if images < 1:
            raise UserError(f"strategy.images={images} is not possible: choose a whole number of at least 1.")
        if not 0 < rate <= 1:
            raise UserError(f"strategy.rate={rate} is not possible: choose a number above 0 and at most 1.")
        if not hybrid_layers(model):
            raise UserError(
                "strategy=hbn needs layers that mix statistics, and this network has none: leave norm out or choose "
                "norm=hbn, and a model with BatchNorm."
            )
        self.images, self.rate = images, rate
        self.training_load = Workload(queries=(QueryPasses(share=1.0, passes=2, most=images),))
        self._grid: Grid | None = None
        self._pooled = PooledMoments()
        self._successful: list[int] = []

    def keep_on_clients(self, entries: Iterable[str]) -> None:
        """Refuse to keep statistics on clients: the server pools them.

        Raises:
            UserError: If statistics are among the entries.
        """
        kept = frozenset(entries)
        refuse_kept_statistics(kept - self.parameters - self.frozen, "hbn")
        super().keep_on_clients(kept)

    def round_config(self, server_round: int) -> Mapping[str, ConfigValue]:
        """Return the number of images of the pass before training."""
        return {IMAGES: self.images}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort; the grid is kept for the pass after training."""
        self._grid, self._pooled, self._successful = grid, PooledMoments(), []
        return super().configure_train(server_round, arrays, config, grid)

    def read_reply(self, reply: Message) -> None:
        """Pool the statistics that the client gathered before it trained."""
        super().read_reply(reply)
        self._successful.append(reply.metadata.src_node_id)
        images = number(metrics_of(reply), NUM_EXAMPLES)
        _pool(self._pooled, to_tensors(reply.content.array_records[STATISTICS]), min(self.images, images))

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Move the global statistics of training."""
        before, moved = self.sent_tensors, {}
        for kind, pooled in (("mean", self._pooled.mean()), ("var", self._pooled.variance())):
            for layer, value in pooled.items():
                name = f"{layer}global_{kind}"
                old = before[name].double().to(value.device)
                moved[name] = (self.rate * value + (1 - self.rate) * old).to(before[name].dtype)
        return {**arrays, **moved}

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new model with statistics of evaluation that were gathered of it, and the metrics of training."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            return None, metrics
        assert self._grid is not None
        config = ConfigRecord({ROUND: server_round, IMAGES: self.images})
        content = RecordDict({ARRAYS: self.arrays_to_train(arrays), CONFIG: config})
        pooled = PooledMoments()
        for reply in ask(self._grid, STATISTICS, dict.fromkeys(self._successful, content)):
            _pool(pooled, to_tensors(arrays_of(reply)), number(metrics_of(reply), NUM_EXAMPLES))
        tensors = to_tensors(arrays)
        for kind, values in (("mean", pooled.mean()), ("var", pooled.variance())):
            for layer, value in values.items():
                name = f"{layer}running_{kind}"
                tensors[name] = value.to(tensors[name].dtype)
        return to_record(tensors), metrics


def _pool(pooled: PooledMoments, statistics: Tensors, images: float) -> None:
    """Add a client's statistics, under the prefixes of their layers."""
    means = {name.removesuffix("running_mean"): each for name, each in statistics.items() if name.endswith("mean")}
    pooled.add(means, {layer: statistics[f"{layer}running_var"] for layer in means}, images)
