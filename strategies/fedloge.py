"""FedLoGe (Xiao et al., ICLR 2024, arXiv 2401.08977): one generic and many personal models on long-tailed data."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import nn

from fedsim.core.errors import UserError
from fedsim.core.seeding import global_seed
from fedsim.core.threads import one_thread
from fedsim.cost import Workload
from fedsim.heads import PersonalLinear, SparseFrame, local_generic_heads
from fedsim.messages.arrays import select, to_tensors
from fedsim.messages.schema import ENTRIES
from fedsim.methods.cached_broadcast import CachedBroadcast
from fedsim.methods.state_split import entries_of
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg, Tensors


class FedLoGe(FedAvg):
    """FedAvg over the network and the auxiliary classifier; personal classifiers stay, the fixed one is sent once.

    Constructing the strategy makes the fixed classifier (SSE-C, ``fedsim/heads/sparse_frame.py``) in ``model``, in
    place, so take the initial arrays from the model after that. A client receives it with its first message and stores
    it.

    Raises:
        UserError: If the model does not end in the three classifiers of ``head=local_generic``, or the auxiliary one
            is frozen.
    """

    personal_modules = (PersonalLinear,)

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, training)
        heads = local_generic_heads(model)
        if heads is None:
            raise UserError(
                "strategy=fedloge needs a network that ends in its three classifiers: leave head out, or choose "
                "head=local_generic."
            )
        if not heads.auxiliary.weight.requires_grad:
            raise UserError("strategy=fedloge trains the network and two classifiers: leave train_only out.")
        with global_seed(self.seed, "frame"), one_thread():
            heads.generic.make()
        self.fixed = entries_of(model, (SparseFrame,))
        self.fixed_classifier = CachedBroadcast(ENTRIES)
        self.broadcasts.append(self.fixed_classifier)
        trained = (heads.auxiliary, heads.personal)
        self.training_load = Workload(beside=[name for name, module in model.named_modules() if module in trained])

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort, with the fixed classifier for clients that do not have it yet."""
        self.fixed_classifier.record = select(arrays, self.fixed)
        return super().configure_train(server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages with the fixed classifier, since clients that have not trained yet are evaluated, too."""
        self.fixed_classifier.record = select(arrays, self.fixed)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Return the model with the fixed classifier, where the next messages and checkpoints take it from."""
        return {**arrays, **to_tensors(self.fixed_classifier.record)}
