"""FedProto (Tan et al., AAAI 2022, arXiv 2105.00243): clients share mean features of classes, and no model."""

from collections.abc import Iterable
from functools import partial

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import RunningAverage
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.reply_records import Question, ReplyFault, refuse_other_form, refuse_too_large
from fedsim.methods.reply_records import Tensors as Reported
from fedsim.methods.training import ServerTraining
from fedsim.models.classifier import classifier_of

from .fedavg import FedAvg, Tensors

PROTOTYPES = "prototypes"
"""The record of prototypes: (features,) for each class, under the number of the class."""


def check_prototypes(tensors: Reported, question: Question, classifier: str) -> None:
    """Refuse prototypes of classes that there are not, of other features than the classifier's, or none at all.

    Args:
        tensors: The prototypes by class.
        question: The message.
        classifier: The name of the classifier's weight, (classes, features).

    Raises:
        ReplyFault: For the first such prototype.
    """
    weight = question.initial[classifier]
    if not tensors:
        raise ReplyFault("it sent no prototypes")
    for name, tensor in tensors.items():
        if name not in map(str, range(len(weight))):
            raise ReplyFault(f"it sent a prototype of {name[:40]!r}, which is no class")
        refuse_other_form(f"the prototype of class {name}", tensor, weight[0])
        refuse_too_large(f"the prototype of class {name}", tensor, question)


class FedProto(FedAvg):
    r"""Every client has a model of its own; what travels are prototypes, of each class the mean of its features.

    .. math:: \bar C^{(j)} = \frac{1}{|N_j|} \sum_{i \in N_j} C_i^{(j)}

    over the clients :math:`N_j` of the cohort that have images of class j, each counted once as in the official code
    (the paper's formula also weighs them by their images of the class, which they would have to tell). A class that no
    client of the cohort has keeps its prototype; in the official code all clients take part in every round.

    The clients' loss is in ``clients/fedproto.py``. The global model is the average of all models, as for local
    training, which is no model of the method.

    Raises:
        UserError: If the model has no linear layer that makes the logits, whose inputs are the features.
    """

    personal_modules = (nn.Module,)
    default_weighting = "uniform"
    uses_aggregation = False

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, training)
        path, _ = classifier_of(model, "strategy=fedproto")
        classifier = f"{path}.weight" if path else "weight"
        self.reply_records = {PROTOTYPES: partial(check_prototypes, classifier=classifier)}
        self.prototypes: Tensors = {}
        self._averages: dict[str, RunningAverage] = {}

    def arrays_to_train(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return an empty record."""
        return ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort."""
        self._averages = {}
        return super().configure_train(server_round, arrays, config, grid)

    def round_records(self, server_round: int) -> RecordDict:
        """Return the prototypes, none in the first round."""
        return RecordDict({PROTOTYPES: to_record(self.prototypes)})

    def evaluation_records(self, server_round: int) -> RecordDict:
        """Return the prototypes, by which clients predict, too."""
        return self.round_records(server_round)

    def read_reply(self, reply: Message) -> None:
        """Add the client's prototypes to the averages of their classes."""
        super().read_reply(reply)
        for name, prototype in to_tensors(reply.content.array_records[PROTOTYPES]).items():
            self._averages.setdefault(name, RunningAverage()).add({name: prototype}, self.weight(reply))

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Replace the prototypes of the classes that the cohort has; return the arrays, which are empty."""
        for average in self._averages.values():
            self.prototypes |= average.result()
        self.prototypes = {name: self.prototypes[name] for name in sorted(self.prototypes, key=int)}
        return arrays

    def state(self) -> RecordDict:
        """Return the inherited state and the prototypes."""
        return RecordDict({**super().state(), PROTOTYPES: to_record(self.prototypes)})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        self.prototypes = to_tensors(state.array_records[PROTOTYPES])
