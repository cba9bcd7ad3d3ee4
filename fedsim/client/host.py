"""The client side of every engine: takes a message, lets the method's client half work, and builds the reply.

What the server does not send is personal: entries of the model that a train or evaluate message lacks are taken from
``Context.state`` (or, before the first training, from the initial model, which every client builds from the same seed),
kept there after training, and not sent back. So the state split is declared once, by the strategy. Frozen parameters
are neither sent nor kept: everyone has them from the start, or is given them once under ``GIVEN``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from datasets.examples import Examples, evaluation_batches
from datasets.federation import Federation
from datasets.source import Part
from fedsim.client.scoring import Scores, score, under
from fedsim.config.binding import bind_half
from fedsim.config.settings import Settings
from fedsim.core.seeding import global_seed, torch_generator
from fedsim.diagnostics.activations import activation_statistics, class_scatter
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.compression import buffers_of, compress, forget
from fedsim.messages.schema import (
    ADAPTED,
    ARRAYS,
    COLLAPSE,
    CONFIG,
    DOMAIN,
    EVALUATE_PARTS,
    EVALUATION,
    GIVEN,
    GLOBAL,
    MASKS,
    METRICS,
    PART,
    REPLACE,
    ROUND,
    arrays_of,
    config_of,
    counts_of,
)
from fedsim.methods.interfaces import ClientHalf, LocalTraining, Turn
from fedsim.methods.sparse.masks import entry
from fedsim.methods.sparse.queries import CandidateQueries
from fedsim.methods.state_split import frozen_entries
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.models import build_model
from fedsim.models.layer_map import as_written, norm_sites
from fedsim.norms.policy import NormPolicy
from fedsim.tta import adaptation_of

PERSONAL = "personal"
"""The record of ``Context.state`` that holds the personal part of the model."""
TRAINED = "trained"
"""The record that says in which round that part was last trained."""


@dataclass(frozen=True)
class ClientAppFactory:
    """Makes the ``ClientApp`` in the process that will run it; small enough to be sent there, but for the images."""

    settings: Settings
    federation: Federation

    def __call__(self, device: torch.device) -> ClientApp:
        host = ClientHost(self.settings, self.federation, device)
        app = ClientApp()
        app.train()(host.train)
        app.evaluate()(host.evaluate)
        app.evaluate("global_model")(host.evaluate_global)
        app.query("state")(host.state)
        app.query("activations")(host.activations)
        app.query("class_scatter")(host.class_scatter)
        queries = CandidateQueries(host)
        app.query("bn_statistics")(queries.bn_statistics)
        app.query("candidate_loss")(queries.candidate_loss)
        app.query("gradients")(queries.gradients)
        return app


class ClientHost:
    """Plays any client of the federation, one message at a time, with one resident model."""

    def __init__(self, settings: Settings, federation: Federation, device: torch.device) -> None:
        self.seed = settings.seed
        self.federation = federation
        self.device = device
        self.model = build_model(settings, federation.num_classes, federation.source.image_shape).to(device)
        self.policy = NormPolicy.of(settings.norm, settings.rounds)
        self.policy.apply(self.model)
        self.initial = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.frozen = frozen_entries(self.model)
        self.diagnostics_images = settings.diagnostics_images
        self.sites: dict[str, nn.Module] = {}
        if settings.diagnostics:
            written = as_written(settings.model, federation.num_classes, federation.source.image_shape)
            self.sites = norm_sites(written, self.model)
        self.half = client_half(settings)
        self.compression, self.exact = settings.compression, buffers_of(self.model)
        self.masks_absent = settings.mask_absent_classes
        self.metrics = {name: FURTHER_METRICS[name] for name in settings.metrics}
        self.adaptation = adaptation_of(settings.tta)

    def train(self, message: Message, context: Context) -> Message:
        client, round = _partition(context), int(str(config_of(message)[ROUND]))
        for name, record in message.content.array_records.items():
            if name != ARRAYS:  # what a client is given once, to keep
                context.state[name] = record
        turn = Turn(
            round=round,
            generator=torch_generator(self.seed, "batches", round=round, client=client),
            config=config_of(message),
            state=context.state,
            sent=message.content,
        )
        received = self.half.unpack(to_tensors(arrays_of(message)), self.model, turn)
        evaluations = self._evaluated_first(message, received, context)
        self.load(received, context.state)
        with (
            global_seed(self.seed, "train", round=round, client=client, device=self.device),
            self.policy.training(self.model, round),
        ):
            metrics = self.half.train(self.model, self.examples(client, Part.TRAIN), turn)
        # Cloned, since the resident model goes on to play other clients.
        trained = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        personal = {
            name: tensor for name, tensor in trained.items() if name not in received and name not in self.frozen
        }
        if personal:
            context.state[PERSONAL] = to_record(personal)
            context.state[TRAINED] = ConfigRecord({ROUND: round})
        packed = self.half.pack({name: trained[name] for name in received}, self.model, turn)
        if self.compression is not None:
            if MASKS in message.content:
                forget(context.state)  # another mask, and the entries no longer mean what they did
            sent = to_tensors(arrays_of(message))
            # Where the client has replaced weights, what was sent and what is trained have other places: no update.
            exact = self.exact.union(map(entry, counts_of(config_of(message), REPLACE)))
            packed = compress(self.compression, sent, packed, context.state, exact)
        reply = self.reply(message, metrics, to_record(packed), RecordDict({**turn.reply, **evaluations}))
        reply.content[CONFIG] = ConfigRecord({ROUND: round})
        return reply

    def evaluate(self, message: Message, context: Context) -> Message:
        """The model this client would use, shared plus personal part, on its own test or validation set."""
        self.load(to_tensors(arrays_of(message)), context.state)
        part = Part[str(config_of(message).get(PART, Part.TEST.name))]
        return self.reply(message, self._evaluate_own(part, context))

    def _evaluated_first(self, message: Message, received: Mapping[str, torch.Tensor], context: Context) -> RecordDict:
        """The same, of the model that a training message brings, where it asks for that: a message less."""
        parts = config_of(message).get(EVALUATE_PARTS, [])
        assert isinstance(parts, list)
        evaluations = RecordDict()
        for part in map(str, parts):
            self.load(received, context.state)
            evaluations[EVALUATION + part] = MetricRecord({**self._evaluate_own(Part[part], context)})
        return evaluations

    def _evaluate_own(self, part: Part, context: Context) -> Scores:
        client = _partition(context)
        tests, trained_on = self.examples(client, part), partial(self.examples, client, Part.TRAIN)
        return self._evaluate(tests, trained_on, trained_on, own=True)

    def evaluate_global(self, message: Message, context: Context) -> Message:
        """The complete model of the message on all test images of one domain.

        Where statistics are re-estimated it is on the domain's training images; a domain that nobody trains on has only
        its test images, whose labels are not needed for that (AdaBN, Li et al. 2016, arXiv 1603.04779). An adaptation
        that compares with what the model was trained on then has the training images of all domains.
        """
        self.load(to_tensors(arrays_of(message)), RecordDict())
        domain = str(config_of(message)[DOMAIN])
        tests = self.federation.domain_examples(domain).to(self.device)

        def trained_on() -> Examples:
            names = [domain] if domain in self.federation.domain_tests else self.federation.domain_tests
            return self.federation.trained_on(names).to(self.device)

        def alike() -> Examples:
            return trained_on() if domain in self.federation.domain_tests else tests

        return self.reply(message, self._evaluate(tests, alike, trained_on, own=False))

    def _evaluate(
        self, tests: Examples, alike: Callable[[], Examples], trained_on: Callable[[], Examples], *, own: bool
    ) -> Scores:
        """The model as it is and, where ``tta=`` says so, adapted to the test images.

        ``alike`` has the images that statistics may be estimated from, ``trained_on`` those that the model knows the
        labels of; both are asked for only where they are needed.
        """
        held = None
        if own and self.masks_absent:
            held = trained_on().labels.bincount(minlength=self.federation.num_classes) > 0
        with self.policy.evaluating(self.model, lambda: self.images(alike())):
            scored = partial(score, self.half, self.model, tests, own=own, held=held, metrics=self.metrics)
            scores = scored()
            if self.adaptation is not None:
                with self.adaptation.adapting(self.model, lambda: self._batches(trained_on())):
                    scores |= under(ADAPTED, scored())
        return scores

    def activations(self, message: Message, context: Context) -> Message:
        """What a diagnosis needs of this client: sums over some of its training images (``activation_statistics``)."""
        examples = self._load_for_diagnosis(message, context)
        images, labels = self._diagnosed(examples)
        round = int(str(config_of(message)[ROUND]))
        with self.policy.evaluating(self.model, lambda: self.images(examples)):
            statistics = activation_statistics(
                *(self.model, self.sites, images, labels, self.federation.num_classes),
                # As in the training that starts from this model, which is the next round's.
                as_in_training=len(labels) > 1 and not self.policy.frozen(round + 1),
            )
        return self.reply(message, {}, to_record({name: tensor.cpu() for name, tensor in statistics.items()}))

    def class_scatter(self, message: Message, context: Context) -> Message:
        """The second half of it, once the class means of all clients are known."""
        examples = self._load_for_diagnosis(message, context)
        images, labels = self._diagnosed(examples)
        collapse = to_tensors(message.content.array_records[COLLAPSE])
        with self.policy.evaluating(self.model, lambda: self.images(examples)):
            metrics = class_scatter(
                self.model, images, labels, *(collapse[each].to(self.device) for each in ("means", "projection"))
            )
        return self.reply(message, metrics)

    def _load_for_diagnosis(self, message: Message, context: Context) -> Examples:
        """Loads the client's model, or the global one of the message; the client's training images."""
        about_global = bool(config_of(message).get(GLOBAL, False))
        self.load(to_tensors(arrays_of(message)), RecordDict() if about_global else context.state)
        return self.examples(_partition(context), Part.TRAIN)

    def _diagnosed(self, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        """Those that a client is diagnosed on, every n-th, and their labels."""
        step = -(-len(examples) // self.diagnostics_images)
        return examples.batch(torch.arange(0, len(examples), step, device=self.device))

    def state(self, message: Message, context: Context) -> Message:
        return Message(context.state, reply_to=message)

    def load(self, received: Mapping[str, torch.Tensor], state: RecordDict) -> None:
        given, kept = state.get(GIVEN, ArrayRecord()), state.get(PERSONAL, ArrayRecord())
        assert isinstance(given, ArrayRecord)
        assert isinstance(kept, ArrayRecord)
        # Names that are not the model's raise here, with the names in the error.
        self.model.load_state_dict({**self.initial, **to_tensors(given), **to_tensors(kept), **received})

    def examples(self, client: int, part: Part) -> Examples:
        return self.federation.examples_of(client, part).to(self.device)

    def images(self, examples: Examples) -> Iterator[torch.Tensor]:
        return (images for images, _ in self._batches(examples))

    def _batches(self, examples: Examples) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and labels, as they are at evaluation."""
        for indices in evaluation_batches(len(examples)):
            yield examples.batch(indices.to(self.device))

    @staticmethod
    def reply(
        message: Message,
        metrics: Mapping[str, float | list[int] | list[float]],
        arrays: ArrayRecord | None = None,
        more: RecordDict | None = None,
    ) -> Message:
        content = RecordDict({METRICS: MetricRecord({**metrics}), **(more or {})})  # METRICS first: ``metrics_of``
        if arrays is not None:
            content[ARRAYS] = arrays
        return Message(content, reply_to=message)


def client_half(settings: Settings) -> ClientHalf:
    """The method's client half with the settings of local training."""
    training = LocalTraining(**{field.name: getattr(settings, field.name) for field in fields(LocalTraining)})
    half: ClientHalf = bind_half(settings.strategy, "client", training)
    return half


def _partition(context: Context) -> int:
    return int(context.node_config["partition-id"])
