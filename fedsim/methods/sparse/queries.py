"""A client's answers while masks are chosen: statistics and a loss of candidates, gradients, on some images."""

from contextlib import nullcontext

import torch
from flwr.app import ArrayRecord
from torch.nn.functional import cross_entropy

from datasets.examples import Examples, evaluation_batches
from fedsim.messages.arrays import to_tensors
from fedsim.messages.schema import ARRAYS, NUM_EXAMPLES
from fedsim.methods.interfaces import Answer, QueryContext
from fedsim.methods.sparse.masks import decode, entry, unpack
from fedsim.methods.sparse.records import LAYERS, MASKS, SHARE
from fedsim.models.restored import buffers_restored
from fedsim.norms.own_statistics import own_statistics
from fedsim.norms.statistics import reestimated_statistics, statistics_entries

CANDIDATE, CANDIDATE_MASKS = "candidate", "candidate-masks"
"""The records of a client's state that hold a candidate, as sparse as it came, from one question to the next."""
PURPOSE = "selection"
"""Of the generator that chooses the share of the images, the same in all questions."""


def bn_statistics(context: QueryContext) -> Answer:
    """Return means and unbiased variances of the inputs of each BatchNorm, over the client's share of images."""
    examples = _load(context)
    with reestimated_statistics(context.model, context.images(examples)):
        state = context.model.state_dict()
        statistics = {name: state[name].clone() for name in statistics_entries(context.model)}
    return Answer({NUM_EXAMPLES: len(examples)}, statistics)


def candidate_loss(context: QueryContext) -> Answer:
    """Return the candidate's loss on the same images, with the statistics of the message in the place of its own.

    Where the message brings the candidate instead, statistics do not travel, and those that the network has are of no
    other images than these (``own_statistics``).
    """
    examples = _load(context)
    for name in (CANDIDATE, CANDIDATE_MASKS):
        del context.state[name]
    own = own_statistics(context.model, context.images(examples)) if _brings_candidate(context) else nullcontext()
    with own:
        return Answer(context.score(examples))


def layer_gradients(context: QueryContext) -> Answer:
    """Return the gradients of the loss on the share of images with respect to the weights of the named layers."""
    model = context.model
    context.load(context.arrays)
    examples = _share(context)
    layers = context.config[LAYERS]
    assert isinstance(layers, list)
    weights = [model.get_parameter(entry(str(layer))) for layer in layers]
    sums = [torch.zeros_like(weight) for weight in weights]
    model.train()
    with buffers_restored(model):
        for indices in evaluation_batches(len(examples)):
            images, labels = examples.batch(indices.to(examples.labels.device))
            loss = cross_entropy(model(images), labels, reduction="sum")
            for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
                total += gradient / len(examples)
    return Answer({NUM_EXAMPLES: len(examples)}, dict(zip(map(str, layers), sums, strict=True)))


def _brings_candidate(context: QueryContext) -> bool:
    return MASKS in context.sent


def _load(context: QueryContext) -> Examples:
    """Load the candidate that the message brings, or that one before it brought and this one completes."""
    if _brings_candidate(context):
        context.state[CANDIDATE] = context.sent.array_records[ARRAYS]
        context.state[CANDIDATE_MASKS] = context.sent.array_records[MASKS]
    candidate, record = context.state[CANDIDATE], context.state[CANDIDATE_MASKS]
    assert isinstance(candidate, ArrayRecord)
    assert isinstance(record, ArrayRecord)
    shapes = {layer: context.model.get_parameter(entry(layer)).shape for layer in record}
    entries = unpack(decode(to_tensors(record), shapes), to_tensors(candidate))
    statistics = {} if _brings_candidate(context) else context.arrays
    context.load({**entries, **statistics})
    return _share(context)


def _share(context: QueryContext) -> Examples:
    """Return the share of the client's training images that the message asks about."""
    examples = context.data
    share = max(1, round(float(str(context.config[SHARE])) * len(examples)))
    chosen = torch.randperm(len(examples), generator=context.generator_for(PURPOSE))[:share]
    chosen = chosen.to(examples.labels.device)
    return Examples(examples.images[chosen], examples.labels[chosen], examples.transform)
