"""FedTAN (Wang, Shi & Chang 2023, arXiv 2301.02982): BatchNorm of a common first step is put together by layer."""

from collections.abc import Iterable
from types import MappingProxyType

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.cost import Passes, Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, CONFIG, ROUND, arrays_of
from fedsim.methods.queries import ask
from fedsim.methods.reply_records import Question, refuse_other_form, refuse_other_names
from fedsim.methods.reply_records import Tensors as Reported
from fedsim.methods.training import ServerTraining
from fedsim.models.restored import undisturbed
from fedsim.norms.synchronized import MEAN, MEAN_GRADIENT, VARIANCE, VARIANCE_GRADIENT, named_batch_norms

from .fedavg import FedAvg, Tensors

PARTS = "statistics_parts"
"""The query for parts of a layer's statistics, or of their gradients."""
SYNCHRONIZED = "synchronized"
"""The record of a training message with all statistics and gradients."""
WANTED = "wanted"
"""The names of the parts, in the config of the query."""


def check_parts(tensors: Reported, question: Question) -> None:
    """Refuse other parts than were asked for, or of another form than the layer's.

    Raises:
        ReplyFault: For the first of them; the message names it.
    """
    wanted = question.config[WANTED]
    assert isinstance(wanted, list)
    refuse_other_names(tensors, [str(name) for name in wanted], "statistics")
    for name, tensor in tensors.items():
        refuse_other_form(name, tensor, question.initial[f"{name.rpartition('/')[0]}.running_mean"])


class FedTAN(FedAvg):
    r"""Lets the cohort make one step as if BatchNorm saw the batches of all clients, before each trains by itself.

    Each client holds one batch. Layer by layer the server asks for means and averages them; for mean squared distances
    from that global mean, and averages them to the global variance; and then from the last layer to the first for the
    gradients of the clients' losses by both, whose averages go on into the layers before. With these, which the
    training message brings, the average of the clients' steps is the step of one SGD on all batches together
    (``fedsim/norms/synchronized.py``). Three queries for each layer, and then the training message.

    It is the algorithm of the authors' code (wangyanmeng/FedTAN, b559270), which is written out for one network; here
    a client computes what a query needs from the beginning each time, instead of going on where it was. The order of
    layers is that of a forward pass, or where nobody says the shape of images that of the model's modules. After the
    common step there is plain local training.

    Args:
        model: The network.
        training: Weighting, fraction, seed and aggregation.
        further_epochs: As for the client; it matters for the costs of a device.

    Raises:
        UserError: If the model has no BatchNorm with running statistics, or the aggregation adds noise.
    """

    default_weighting = "uniform"
    queries = MappingProxyType({PARTS: check_parts})

    def __init__(
        self, model: nn.Module, training: ServerTraining | None = None, *, further_epochs: int | None = None
    ) -> None:
        super().__init__(model, training)
        # A device goes on with the step where it was, so that its queries are no work beside it.
        self.training_load = Workload(passes=(Passes(further_epochs),), extra_steps=1)
        refuse_noise(self.aggregation, "strategy=fedtan", "statistics of their images")
        layers = named_batch_norms(model)
        if not layers or not all(layer.track_running_stats for layer in layers.values()):
            raise UserError(
                "strategy=fedtan needs BatchNorm layers with running statistics, and this network has others or none: "
                "choose norm=bn without norm.statistics=none, and a model with BatchNorm."
            )
        shape = None if training is None else training.image_shape
        self.layers = list(layers) if shape is None else _in_forward_order(model, shape)
        """The names of the layers in the order of a forward pass."""
        self._known: Tensors = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Put the statistics and gradients together; return the messages to the cohort."""
        cohort, sent = self.cohort(server_round, grid), self.arrays_to_train(arrays)
        self._known = {}
        wanted = [[name + kind] for name in self.layers for kind in (MEAN, VARIANCE)]
        wanted += [[name + MEAN_GRADIENT, name + VARIANCE_GRADIENT] for name in reversed(self.layers)]
        for number, names in enumerate(wanted):
            brought = to_record(self._known) if number else sent  # the model is there from the first query on
            query = ConfigRecord({ROUND: server_round, WANTED: names, "first": number == 0})
            average = RunningAverage()
            for reply in ask(grid, PARTS, dict.fromkeys(cohort, RecordDict({ARRAYS: brought, CONFIG: query}))):
                average.add(to_tensors(arrays_of(reply)), self.weight(reply))
            self._known |= average.result()
        return super().configure_train(server_round, arrays, config, grid)

    def round_records(self, server_round: int) -> RecordDict:
        """Return the global statistics and gradients."""
        return RecordDict({SYNCHRONIZED: to_record(self._known)})


def _in_forward_order(model: nn.Module, image_shape: tuple[int, int, int]) -> list[str]:
    order: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, __, name=name: order.append(name))
        for name, layer in named_batch_norms(model).items()
    ]
    try:
        with undisturbed(model), torch.no_grad():
            model.eval()(next(model.parameters()).new_zeros(2, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))
