"""The client host of every engine: receives a message, calls the method's local trainer, and builds the reply.

Entries of the model that the server does not send are personal: entries that a train or evaluate message lacks are
taken from the client state (or, before the first training, from the initial model, which every client builds from the
same seed), stored there after training, and not sent back. The state split is therefore declared only once, by the
strategy. Frozen parameters are neither sent nor stored: all clients have them from the initial model, or receive them
once (``ENTRIES``).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from datasets.examples import Examples, evaluation_batches
from datasets.federation import Federation
from datasets.source import Part
from fedsim.client.hosted_model import HostedModel
from fedsim.client.mixed_precision import training_in
from fedsim.config.settings import Settings
from fedsim.core.deterministic import fixed_algorithms
from fedsim.core.seeding import global_seed, torch_generator
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.compression import buffers_of, compress, forget
from fedsim.messages.schema import (
    ADAPTED,
    ARRAYS,
    CONFIG,
    DOMAIN,
    EVALUATE_PARTS,
    EVALUATION,
    METRICS,
    PART,
    QUERY,
    ROUND,
    arrays_of,
    config_of,
    moved_entries,
)
from fedsim.methods.client_state import ClientState
from fedsim.methods.interfaces import ClientContext, QueryContext, TrainingContext
from fedsim.methods.state_split import frozen_entries
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.metrics.scoring import Scores, score, under
from fedsim.tta import adaptation_of

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Opened:
    """A message that asks for training, as far as it is processed before the training."""

    training: TrainingContext
    received: Tensors
    """The entries of the model that were sent."""
    evaluations: RecordDict
    """The evaluations of the received model, where requested."""
    other_broadcast: bool
    """Whether a cached broadcast has changed."""


class ClientHost(HostedModel):
    """Hosts every client of the federation, one message at a time, with a single model that all clients share."""

    def __init__(
        self, settings: Settings, federation: Federation, device: torch.device, *, on_device: bool = False
    ) -> None:
        super().__init__(settings, federation.num_classes, federation.source.image_shape, device)
        self.seed, self.precision = settings.seeds.batches, settings.precision
        self.federation = federation
        self.device, self.on_device = device, on_device
        self.frozen = frozen_entries(self.model)
        self.compression, self.exact = settings.compression, buffers_of(self.model)
        self.masks_absent = settings.mask_absent_classes
        self.metrics = {name: FURTHER_METRICS[name] for name in settings.metrics}
        self.adaptation = adaptation_of(settings.tta)
        self.deterministic = settings.deterministic

    def algorithms(self) -> AbstractContextManager[None]:
        """Let a GPU compute as ``deterministic=`` asks for inside the block."""
        return fixed_algorithms(self.device) if self.deterministic else nullcontext()

    def train(self, message: Message, context: Context) -> Message:
        """Train the client of the context on the model of the message, and evaluate the model before, if requested."""
        opened = self.open(message, context)
        with self.surroundings(opened.training):
            metrics = self.trainer.train(self.model, opened.training)
        return self.close(message, context, opened, metrics)

    def open(self, message: Message, context: Context) -> Opened:
        """Load the model with which the client of the context starts, and evaluate it, if requested."""
        client, state = partition_of(context), ClientState(context.state)
        round, config = int(str(config_of(message)[ROUND])), config_of(message)
        other_broadcast = state.cache(message.content)
        training = TrainingContext(
            client=client,
            initial=self.initial,
            on_device=self.on_device,
            round=round,
            config=config,
            sent=message.content,
            cached=state.cached(message.content),
            state=state.method,
            data=self.examples(client, Part.TRAIN),
            generator=torch_generator(self.seed, "batches", round=round, client=client),
        )
        received = self.trainer.unpack(to_tensors(arrays_of(message)), self.model, training)
        evaluations = self._evaluate_received(message, client, state)
        self.load(received, state)
        return Opened(training, received, evaluations, other_broadcast)

    @contextmanager
    def surroundings(self, training: TrainingContext) -> Iterator[None]:
        """Seed the client's generators, and let the model be one in training inside the block."""
        seeded = global_seed(self.seed, "train", round=training.round, client=training.client, device=self.device)
        with seeded, self.in_training(training.round):
            yield

    @contextmanager
    def in_training(self, round: int) -> Iterator[None]:
        """Apply the norm policy and the precision of training inside the block."""
        with self.policy.training(self.model, round), training_in(self.precision, self.model):
            yield

    def close(self, message: Message, context: Context, opened: Opened, metrics: Mapping[str, float]) -> Message:
        """Store the personal part of the trained model, which is loaded, and return the reply."""
        state, training, received = ClientState(context.state), opened.training, opened.received
        # Cloned, since other clients will use the same model object.
        trained = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        personal = {
            name: tensor for name, tensor in trained.items() if name not in received and name not in self.frozen
        }
        if personal:
            state.keep(personal, training.round)
        packed = self.trainer.pack({name: trained[name] for name in received}, self.model, training)
        if self.compression is not None:
            if opened.other_broadcast:
                forget(context.state)  # the entries may have another meaning now
            exact = self.exact | moved_entries(training.config)
            packed = compress(self.compression, to_tensors(arrays_of(message)), packed, context.state, exact)
        more = RecordDict({**training.reply, **opened.evaluations})
        reply = self.reply(message, metrics, to_record(packed), more)
        reply.content[CONFIG] = ConfigRecord({ROUND: training.round})
        return reply

    def evaluate(self, message: Message, context: Context) -> Message:
        """Evaluate the client's own model, shared and personal part, on its test or validation set."""
        client, state = partition_of(context), ClientState(context.state)
        received, known = self.unpack(message, state)
        self.load(received, state, known)
        part = Part[str(config_of(message).get(PART, Part.TEST.name))]
        return self.reply(message, self._evaluate_own(part, client, known))

    def _evaluate_received(self, message: Message, client: int, state: ClientState) -> RecordDict:
        """Evaluate the model of a training message before training, on the parts of the images that the config names.

        It is unpacked as a message for evaluation is, so that its numbers are the same.
        """
        parts = config_of(message).get(EVALUATE_PARTS, [])
        assert isinstance(parts, list)
        evaluations = RecordDict()
        for part in map(str, parts):
            received, known = self.unpack(message, state)
            self.load(received, state, known)
            evaluations[EVALUATION + part] = MetricRecord({**self._evaluate_own(Part[part], client, known)})
        return evaluations

    def _evaluate_own(self, part: Part, client: int, context: ClientContext) -> Scores:
        tests, trained_on = self.examples(client, part), partial(self.examples, client, Part.TRAIN)
        return self._evaluate(tests, trained_on, trained_on, context)

    def evaluate_global(self, message: Message, context: Context) -> Message:
        """Evaluate the complete model of the message on all test images of one domain.

        If statistics are re-estimated, this is done on the domain's training images, or, for a domain that was left
        out of training, on its test images without their labels (AdaBN, Li et al. 2016, arXiv 1603.04779). A test-time
        adaptation that needs training images gets those of all domains in the latter case.
        """
        self.load(to_tensors(arrays_of(message)), ClientState(RecordDict()))
        domain = str(config_of(message)[DOMAIN])
        tests = self.federation.domain_examples(domain).to(self.device)

        def trained_on() -> Examples:
            names = [domain] if domain in self.federation.domain_tests else self.federation.domain_tests
            return self.federation.trained_on(names).to(self.device)

        def for_statistics() -> Examples:
            return trained_on() if domain in self.federation.domain_tests else tests

        global_model = ClientContext(round=int(str(config_of(message).get(ROUND, 0))), own=False)
        return self.reply(message, self._evaluate(tests, for_statistics, trained_on, global_model))

    def _evaluate(
        self,
        tests: Examples,
        for_statistics: Callable[[], Examples],
        trained_on: Callable[[], Examples],
        context: ClientContext,
    ) -> Scores:
        """Return the scores of the model and, with the setting ``tta``, of the model adapted to the test images.

        Args:
            tests: The images to score.
            for_statistics: Returns the images for re-estimation of statistics; called only if needed.
            trained_on: Returns the training images with their labels; called only if needed.
            context: The client and its own data.
        """
        held = None
        if context.own and self.masks_absent:
            held = trained_on().labels.bincount(minlength=self.federation.num_classes) > 0
        with self.policy.evaluating(self.model, lambda: self.images_of(for_statistics())):
            scored = partial(score, self.trainer, self.model, tests, context, held=held, metrics=self.metrics)
            scores = scored()
            if self.adaptation is not None:
                with self.adaptation.adapting(self.model, lambda: self._batches(trained_on())):
                    scores |= under(ADAPTED, scored(batch_size=self.adaptation.batch_size))
        return scores

    def query(self, message: Message, context: Context) -> Message:
        """Answer a query of the method."""
        client, state, config = partition_of(context), ClientState(context.state), config_of(message)
        asked = QueryContext(
            round=int(str(config.get(ROUND, 0))),
            config=config,
            sent=message.content,
            cached=state.cached(message.content),
            state=state.method,
            model=self.model,
            arrays=to_tensors(arrays_of(message)),
            data=self.examples(client, Part.TRAIN),
            generator_for=lambda purpose: torch_generator(self.seed, purpose, client=client),
            load=lambda entries: self.load(entries, state),
            images=self.images_of,
            score=lambda examples: score(self.trainer, self.model, examples, asked),
        )
        answer = self.trainer.queries[str(config[QUERY])](asked)
        return self.reply(message, answer.metrics, to_record(answer.arrays) if answer.arrays else None)

    def state(self, message: Message, context: Context) -> Message:
        """Return the whole client state."""
        return Message(context.state, reply_to=message)

    def examples(self, client: int, part: Part) -> Examples:
        """Return a client's images of one part, on the device."""
        return self.federation.examples_of(client, part).to(self.device)

    def images_of(self, examples: Examples) -> Iterator[torch.Tensor]:
        return (images for images, _ in self._batches(examples))

    def _batches(self, examples: Examples) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield batches of images and labels as in an evaluation, without augmentation."""
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


def partition_of(context: Context) -> int:
    return int(context.node_config["partition-id"])
