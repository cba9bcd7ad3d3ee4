"""CReFF (Shang et al., IJCAI 2022, arXiv 2204.13399): the server trains the classifier anew, on features of its own."""

from collections.abc import Iterable
from functools import partial

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.core.seeding import torch_generator
from fedsim.core.threads import one_thread
from fedsim.cost import QueryPasses, Workload
from fedsim.heads import RetrainedLinear, retrained_heads
from fedsim.messages.arrays import select, to_record, to_tensors
from fedsim.messages.schema import ENTRIES
from fedsim.methods.cached_broadcast import CachedBroadcast
from fedsim.methods.reply_records import Question, ReplyFault, refuse_other_form, refuse_other_names, refuse_too_large
from fedsim.methods.reply_records import Tensors as Reported
from fedsim.methods.state_split import entries_of
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg, Tensors
from .federated_features import Linear, matched, retrained

GRADIENTS = "class_gradients"
"""The record of a reply with the gradients of the re-trained classifier: ``CLASS/weight`` and ``CLASS/bias``."""
FEATURES = "federated features"


def check_class_gradients(tensors: Reported, question: Question, weight: str) -> None:
    """Refuse gradients of classes that there are not, of only one of weight and bias, or of another form.

    Args:
        tensors: The gradients.
        question: The message.
        weight: The name of the re-trained classifier's weight, (classes, features).

    Raises:
        ReplyFault: For the first such tensor.
    """
    form = question.initial[weight]
    classes = {name.partition("/")[0] for name in tensors} & {str(label) for label in range(len(form))}
    wanted = [f"{label}/{kind}" for label in classes for kind in ("weight", "bias")]
    refuse_other_names(tensors, wanted, "gradients")
    if not tensors:
        raise ReplyFault("it sent no gradients")
    for name, tensor in tensors.items():
        refuse_other_form(name, tensor, form if name.endswith("weight") else form[:, 0])
        refuse_too_large(name, tensor, question)


class CReFF(FedAvg):
    r"""FedAvg, and beside its classifier one that is trained on the server, on *federated features*.

    In every round the clients also send, for each class of their images, the gradient of the re-trained classifier on
    the features of these images (``clients/creff.py``). The server averages it over the clients that have the class,
    and moves its own features of the class until their gradient has the same direction (``matched``). Then it trains a
    new classifier on the features, as many of each class (``retrained``). The network and its own classifier are
    trained as in FedAvg; the re-trained classifier is sent to the cohort for the next gradients, and with the network
    it is the method's model.

    The re-trained classifier begins as a copy of the network's, in the official code as another random one.

    Args:
        features_per_class: Number of federated features of each class.
        match_steps: Number of steps of gradient descent on the features in each round.
        match_lr: Their learning rate.
        retrain_epochs: Passes over the features with which a classifier is trained in each round.
        retrain_lr: Their learning rate.
        retrain_batch_size: Their batch size.
        repeats: As for the client, for the cost of a round.

    Raises:
        UserError: If an option is out of its range, the aggregation adds noise, the model does not end in the two
            classifiers of ``head=retrained``, or its own classifier is frozen or has no bias.
    """

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        features_per_class: int = 100,
        match_steps: int = 100,
        match_lr: float = 0.1,
        retrain_epochs: int = 300,
        retrain_lr: float = 0.01,
        retrain_batch_size: int = 32,
        repeats: int = 10,
    ) -> None:
        super().__init__(model, training)
        refuse_noise(self.aggregation, "strategy=creff", "gradients of their classes")
        counts = {
            "features_per_class": features_per_class,
            "match_steps": match_steps,
            "retrain_epochs": retrain_epochs,
            "retrain_batch_size": retrain_batch_size,
        }
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"strategy.{name}={count} is not possible: choose a whole number of at least 1.")
        for name, lr in (("match_lr", match_lr), ("retrain_lr", retrain_lr)):
            if not 0 < lr < float("inf"):
                raise UserError(f"strategy.{name}={lr} is not possible: choose a number above 0.")
        heads = retrained_heads(model)
        if heads is None:
            raise UserError(
                "strategy=creff needs a network that ends in its two classifiers: leave head out, or choose "
                "head=retrained."
            )
        if not heads.trained.weight.requires_grad:
            raise UserError("strategy=creff trains the network and its classifier: leave train_only out.")
        if heads.trained.bias is None:
            raise UserError(
                "strategy=creff needs a classifier with a bias, and that of this network has none: choose another "
                "model."
            )
        self.entries = entries_of(model, (RetrainedLinear,))
        self.weight_entry = next(name for name in self.entries if name.endswith("weight"))
        self.bias_entry = next(name for name in self.entries if name.endswith("bias"))
        self.reply_records = {GRADIENTS: partial(check_class_gradients, weight=self.weight_entry)}
        self.classifier = CachedBroadcast(ENTRIES)
        self.broadcasts.append(self.classifier)
        self.match_steps, self.match_lr = match_steps, match_lr
        self.retrain_epochs, self.retrain_lr, self.retrain_batch_size = retrain_epochs, retrain_lr, retrain_batch_size
        weight = heads.retrained.weight
        self.features = torch.randn(
            (len(weight), features_per_class, weight.shape[1]), generator=torch_generator(self.seed, FEATURES)
        ).to(weight.dtype)
        """(classes, ``features_per_class``, features)."""
        self._gradients: dict[str, RunningAverage] = {}
        self.training_load = Workload(queries=(QueryPasses(share=1.0, passes=repeats),))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort with the re-trained classifier, which is another in each round."""
        self.classifier.change(select(arrays, self.entries))
        self._gradients = {}
        return super().configure_train(server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages with the re-trained classifier, with which clients predict."""
        self.classifier.record = select(arrays, self.entries)
        return super().configure_evaluate(server_round, arrays, config, grid)

    def read_reply(self, reply: Message) -> None:
        """Add the client's gradients to the averages of their classes, in which all clients count the same."""
        super().read_reply(reply)
        for name, gradient in to_tensors(reply.content.array_records[GRADIENTS]).items():
            self._gradients.setdefault(name, RunningAverage()).add({name: gradient}, 1.0)

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Return the model with a classifier that is trained on the features, after they have been matched."""
        sent, found = to_tensors(self.classifier.record), Tensors()
        for average in self._gradients.values():
            found |= {name: each.cpu() for name, each in average.result().items()}  # engine=inline leaves them on a GPU
        classifier: Linear = (sent[self.weight_entry].cpu(), sent[self.bias_entry].cpu())
        labels = [label for label in range(len(self.features)) if f"{label}/weight" in found]
        gradients = {label: (found[f"{label}/weight"], found[f"{label}/bias"]) for label in labels}
        with one_thread():
            self.features = matched(self.features, gradients, classifier, steps=self.match_steps, lr=self.match_lr)
            weight, bias = retrained(
                self.features,
                epochs=self.retrain_epochs,
                lr=self.retrain_lr,
                batch_size=self.retrain_batch_size,
                generator=torch_generator(self.seed, "retraining", round=server_round),
            )
        return {**arrays, self.weight_entry: weight, self.bias_entry: bias}

    def state(self) -> RecordDict:
        """Return the inherited state and the federated features."""
        return RecordDict({**super().state(), FEATURES: to_record({FEATURES: self.features})})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        self.features = to_tensors(state.array_records[FEATURES])[FEATURES]
