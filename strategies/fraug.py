"""FRAug (Chen et al., ICCV 2023, arXiv 2205.14900): a shared generator of features augments the training of heads."""

from collections.abc import Iterable
from types import MappingProxyType

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.aggregation import RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.core.seeding import global_seed
from fedsim.cost import Passes, Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.reply_records import Question, refuse_other_form, refuse_other_names, refuse_too_large
from fedsim.methods.reply_records import Tensors as Reported
from fedsim.methods.state_split import entries_of
from fedsim.methods.training import ServerTraining
from fedsim.models.classifier import classifier_of
from fedsim.models.feature_networks import FeatureGenerator, FeatureTransform, latent_size
from fedsim.norms.policy import NormPolicy

from .fedavg import FedAvg, Tensors

GENERATOR = "generator"
"""The record of the generator: in a message as it is shared, and in a reply as that client has trained it."""
SHARED, LOCAL = "shared", "local"
EXPONENTIAL = "exponential"
LOCAL_NORM = {
    "all": NormPolicy(affine=LOCAL, statistics=LOCAL),
    "statistics": NormPolicy(statistics=LOCAL),
    "none": NormPolicy(),
}
"""What each choice of ``local_norm`` keeps on the clients."""


def check_generator(tensors: Reported, question: Question) -> None:
    """Refuse a generator of other names, shapes or types than the one that was sent, or that has moved too far.

    Raises:
        ReplyFault: If an entry does not pass; the message names it.
    """
    sent = to_tensors(question.records[GENERATOR])
    refuse_other_names(tensors, sent, "numbers of a generator")
    for name, tensor in tensors.items():
        refuse_other_form(name, tensor, sent[name])
        refuse_too_large(name, tensor - sent[name].to(tensor.device), question)


class FRAug(FedAvg):
    """Averages the model as FedAvg does, and with the same weights a generator of features, which travels beside it.

    Normalization layers with running statistics stay on the clients, as under ``norm.policy=fedbn``: that is what the
    authors' code does, although its setting is called ``no_bn_running_stats``. Each client also has a network that
    makes the generated features its own, and its mean features of each class, which are in no message
    (``clients/fraug.py``).

    Args:
        model: The network, which ends in a linear classifier.
        training: Weighting, fraction, seed and aggregation; the generator is averaged plainly whatever the latter is.
        latent: Numbers of noise that the generator takes; ``None`` for half of the number of features.
        generator_norm: ``"local"`` keeps the generator's BatchNorm layers on the clients, as FedBN does.
        local_norm: What stays on the clients of the model's layers with running statistics: ``"all"``, their
            ``"statistics"`` alone (as under ``norm.policy=silobn``), or ``"none"``.
        labels: As for the client; this and the next two matter for the costs of a device.
        generator_distance: As for the client.
        local_steps: As for the client.
        schedule: As for the client; it decides whether a run may be given more rounds.

    Raises:
        UserError: If the model has no linear layer that makes the logits, this layer is frozen, an option is unknown or
            out of its range, or the aggregation adds noise.
    """

    reply_records = MappingProxyType({GENERATOR: check_generator})

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        latent: int | None = None,
        generator_norm: str = SHARED,
        local_norm: str = "all",
        labels: str = "both",
        generator_distance: str = "l2",
        local_steps: int | None = None,
        schedule: str = EXPONENTIAL,
    ) -> None:
        super().__init__(model, training)
        if schedule == EXPONENTIAL:
            self.depends_on_rounds = f"strategy.schedule={EXPONENTIAL}"
        refuse_noise(self.aggregation, "strategy=fraug", "generators")
        if generator_norm not in (SHARED, LOCAL):
            raise UserError(f"strategy.generator_norm={generator_norm} is not known: choose {SHARED} or {LOCAL}.")
        if local_norm not in LOCAL_NORM:
            raise UserError(f"strategy.local_norm={local_norm} is not known: choose all, statistics or none.")
        if latent is not None and latent < 1:
            raise UserError(f"strategy.latent={latent} is not possible: choose a whole number of at least 1, or null.")
        _, classifier = classifier_of(model, "strategy=fraug")
        if not classifier.weight.requires_grad:
            raise UserError(
                "strategy=fraug trains the classifier on generated features, and it is frozen here: leave head and "
                "train_only out."
            )
        self.keep_on_clients(LOCAL_NORM[local_norm].local_entries(model))
        features, classes = classifier.in_features, classifier.out_features
        with global_seed(self.seed, GENERATOR):
            generator = FeatureGenerator(features, latent_size(features, latent), classes).to(classifier.weight.dtype)
        held = entries_of(generator, (_BatchNorm,)) if generator_norm == LOCAL else ()
        # Counters of batches serve for nothing here.
        self.generator: Tensors = {
            name: tensor.clone()
            for name, tensor in generator.state_dict().items()
            if name not in held and tensor.is_floating_point()
        }
        """The part of the generator that is shared."""
        self._generators = RunningAverage()
        of_set = generator_distance in ("mean_cov", "mmd")
        self.training_load = _workload(classifier, generator, labels, of_set, local_steps)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort with the generator."""
        self._generators = RunningAverage()
        return super().configure_train(server_round, arrays, config, grid)

    def round_records(self, server_round: int) -> RecordDict:
        """Return the generator."""
        return RecordDict({GENERATOR: to_record(self.generator)})

    def read_reply(self, reply: Message) -> None:
        """Add the client's generator to the average."""
        super().read_reply(reply)
        self._generators.add(to_tensors(reply.content.array_records[GENERATOR]), self.weight(reply))

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Replace the generator by the average of the clients' own; return the model unchanged."""
        self.generator = {name: average.cpu() for name, average in self._generators.result().items()}
        return arrays

    def state(self) -> RecordDict:
        """Return the inherited state and the generator."""
        return RecordDict({**super().state(), GENERATOR: to_record(self.generator)})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        self.generator = to_tensors(state.array_records[GENERATOR])


def _workload(
    classifier: nn.Linear, generator: FeatureGenerator, labels: str, of_set: bool, local_steps: int | None
) -> Workload:
    """Return the work of a device: of linear layers forward, and as much again for each of the two gradients.

    For each image the classifier learns from one generated row, or from two with ``labels="both"``; the generator makes
    a row to be trained on, and the transformation is trained on as many rows as the classifier. The model is evaluated
    once more on each batch for the features that generated ones are compared with, where there is such a comparison.
    """
    features, classes, latent = classifier.in_features, classifier.out_features, generator.latent
    generated = _forward((latent + classes, features), (features, features))
    transformed = _forward((features + classes, latent), (latent, features))
    classified = _forward((features, classes))
    rows = 2 if labels == "both" else 1
    flops = rows * (generated + transformed + 2 * classified)  # the step of the classifier: its weights' gradients
    flops += 3 * generated + 2 * classified  # of the generator, through the classifier
    flops += rows * (generated + 3 * transformed + 2 * classified)  # of the transformation, through the classifier
    parts = [Passes(steps=local_steps, other_flops=flops)]
    if of_set or labels != "balanced":
        parts.append(Passes(steps=local_steps, trained=(), through=()))
    transform = FeatureTransform(features, latent, classes)
    trained = sum(each.numel() for network in (generator, transform) for each in network.parameters())
    return Workload(passes=parts, other_numbers=3 * trained + classes * features)  # weights, gradients and momentum


def _forward(*layers: tuple[int, int]) -> int:
    """Return the FLOPs of linear layers of so many inputs and outputs, for a row."""
    return sum(2 * inputs * outputs for inputs, outputs in layers)
