"""A client's answers while candidate masks are tried: statistics and then a loss, on a share of its images."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Protocol

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from torch import nn
from torch.nn.functional import cross_entropy

from datasets.examples import Examples, evaluation_batches
from datasets.source import Part
from fedsim.client.scoring import score
from fedsim.core.seeding import torch_generator
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, LAYERS, MASKS, NUM_EXAMPLES, SHARE, arrays_of, config_of
from fedsim.methods.interfaces import ClientHalf, Turn
from fedsim.methods.sparse.masks import entry
from fedsim.models.restored import buffers_restored
from fedsim.norms.own_statistics import own_statistics
from fedsim.norms.statistics import reestimated_statistics, statistics_entries

CANDIDATE, CANDIDATE_MASKS = "candidate", "candidate-masks"


class Host(Protocol):
    """What the questions need of the ``ClientHost`` that puts them."""

    model: nn.Module
    seed: int
    device: torch.device
    half: ClientHalf

    def load(self, received: Mapping[str, torch.Tensor], state: RecordDict) -> None: ...

    def examples(self, client: int, part: Part) -> Examples: ...

    def images(self, examples: Examples) -> Iterator[torch.Tensor]: ...

    def reply(
        self,
        message: Message,
        metrics: Mapping[str, float | list[int] | list[float]],
        arrays: ArrayRecord | None = None,
    ) -> Message: ...


class CandidateQueries:
    """Answers for the clients that a host plays. A candidate is kept, as sparse as it came, from the first question to
    the second."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def bn_statistics(self, message: Message, context: Context) -> Message:
        """Means and unbiased variances of the inputs of each BatchNorm, over the client's share of images."""
        examples = self._load(message, context)
        with reestimated_statistics(self.host.model, self.host.images(examples)):
            state = self.host.model.state_dict()
            statistics = {name: state[name].clone() for name in statistics_entries(self.host.model)}
        return self.host.reply(message, {NUM_EXAMPLES: len(examples)}, to_record(statistics))

    def candidate_loss(self, message: Message, context: Context) -> Message:
        """The candidate's loss on the same images, with the statistics of the message in the place of its own.

        Where the message brings the candidate instead, statistics do not travel, and those that the network has are of
        no other images than these (``own_statistics``).
        """
        examples, model = self._load(message, context), self.host.model
        for name in (CANDIDATE, CANDIDATE_MASKS):
            del context.state[name]
        alone = MASKS in message.content.array_records
        with own_statistics(model, self.host.images(examples)) if alone else nullcontext():
            return self.host.reply(message, score(self.host.half, model, examples, own=True))

    def gradients(self, message: Message, context: Context) -> Message:
        """Of the loss on the client's share of images with respect to the weights of the layers that are named."""
        model, client = self.host.model, int(context.node_config["partition-id"])
        self.host.load(to_tensors(arrays_of(message)), context.state)
        generator = torch_generator(self.host.seed, "selection", client=client)
        examples = self._share(client, message, generator)
        layers = config_of(message)[LAYERS]
        assert isinstance(layers, list)
        weights = [model.get_parameter(entry(str(layer))) for layer in layers]
        sums = [torch.zeros_like(weight) for weight in weights]
        model.train()
        with buffers_restored(model):
            for indices in evaluation_batches(len(examples)):
                images, labels = examples.batch(indices.to(self.host.device))
                loss = cross_entropy(model(images), labels, reduction="sum")
                for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
                    total += gradient / len(examples)
        return self.host.reply(
            message, {NUM_EXAMPLES: len(examples)}, to_record(dict(zip(map(str, layers), sums, strict=True)))
        )

    def _load(self, message: Message, context: Context) -> Examples:
        """Loads the candidate that the message brings, or that one before it brought and this one completes."""
        arrived = to_tensors(arrays_of(message))
        if MASKS in message.content.array_records:
            context.state[CANDIDATE] = message.content.array_records[ARRAYS]
            context.state[CANDIDATE_MASKS] = message.content.array_records[MASKS]
        candidate, masks = context.state[CANDIDATE], context.state[CANDIDATE_MASKS]
        assert isinstance(candidate, ArrayRecord)
        client = int(context.node_config["partition-id"])
        turn = Turn(
            round=0,
            generator=torch_generator(self.host.seed, "selection", client=client),
            config=config_of(message),
            state=context.state,
            sent=RecordDict({MASKS: masks}),
        )
        entries = self.host.half.unpack(to_tensors(candidate), self.host.model, turn)
        statistics = {} if MASKS in message.content.array_records else arrived
        self.host.load({**entries, **statistics}, context.state)
        return self._share(client, message, turn.generator)

    def _share(self, client: int, message: Message, generator: torch.Generator) -> Examples:
        """The share of its training images that the message asks about, the same in all questions."""
        examples = self.host.examples(client, Part.TRAIN)
        share = max(1, round(float(str(config_of(message)[SHARE])) * len(examples)))
        chosen = torch.randperm(len(examples), generator=generator)[:share].to(examples.labels.device)
        return Examples(examples.images[chosen], examples.labels[chosen], examples.transform)
