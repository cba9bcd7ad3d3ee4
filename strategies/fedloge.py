"""FedLoGe (Xiao et al., ICLR 2024, arXiv 2401.08977): one generic and many personal models on long-tailed data."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import Aggregation
from fedsim.core.errors import UserError
from fedsim.core.seeding import global_seed
from fedsim.cost import Workload
from fedsim.engines.client_call import one_thread
from fedsim.heads import PersonalLinear, SparseFrame, local_generic_heads
from fedsim.messages.arrays import select
from fedsim.messages.schema import GIVEN
from fedsim.methods.state_split import entries_of

from .fedavg import FedAvg
from .given import Given


class FedLoGe(FedAvg):
    """FedAvg over the network and the auxiliary classifier; the personal ones stay, the fixed one travels once.

    The server makes the fixed classifier (SSE-C, ``fedsim/heads/sparse_frame.py``) when the strategy is made, in place,
    so arrays are taken from the model after that. A client is given it with its first training message and keeps it.

    Errors: ``UserError`` if the model does not end in the three classifiers of ``head=local_generic``, or they are not
    to be trained.
    """

    personal_modules = (PersonalLinear,)

    def __init__(
        self,
        model: nn.Module,
        *,
        weighting: str = "examples",
        fraction: float = 1.0,
        seed: int = 0,
        aggregation: Aggregation | None = None,
    ) -> None:
        super().__init__(model, weighting=weighting, fraction=fraction, seed=seed, aggregation=aggregation)
        heads = local_generic_heads(model)
        if heads is None:
            raise UserError(
                "strategy=fedloge needs a network that ends in its three classifiers: leave head out, or choose "
                "head=local_generic."
            )
        if not heads.auxiliary.weight.requires_grad:
            raise UserError("strategy=fedloge trains the network and two classifiers: leave train_only out.")
        with global_seed(seed, "frame"), one_thread():
            heads.generic.make()
        self.fixed = entries_of(model, (SparseFrame,))
        self.given = Given(GIVEN)
        trained = (heads.auxiliary, heads.personal)
        self.training_load = Workload(beside=[name for name, module in model.named_modules() if module in trained])

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.given.record = select(arrays, self.fixed)
        return self.given.attach(super().configure_train(server_round, arrays, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        average, metrics = super().aggregate_train(server_round, self.given.noted(replies))
        if average is not None:
            for name, array in self.given.record.items():  # what the next messages, and a checkpoint, find there
                average[name] = array
        return average, metrics

    def evaluated(self, arrays: ArrayRecord) -> ArrayRecord:
        """With the fixed classifier: a client that has not trained yet is evaluated too, and keeps nothing then."""
        return select(arrays, (*self.shared(arrays), *self.fixed))

    def state(self) -> RecordDict:
        return RecordDict({**super().state(), **self.given.state()})

    def load_state(self, state: RecordDict) -> None:
        super().load_state(state)
        self.given.load_state(state)
