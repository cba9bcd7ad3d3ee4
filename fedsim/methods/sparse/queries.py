"""A client's answers to queries before training: statistics and losses of candidates, and gradients."""

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
"""The records of the client state that hold a candidate, in packed form, from one query to the next."""
PURPOSE = "selection"
"""The purpose of the generator that chooses the share of the images, the same in all queries."""


def bn_statistics(context: QueryContext) -> Answer:
    """Return means and unbiased variances of the inputs of each BatchNorm, on the share of the client's images."""
    examples = _load(context)
    with reestimated_statistics(context.model, context.images(examples)):
        state = context.model.state_dict()
        statistics = {name: state[name].clone() for name in statistics_entries(context.model)}
    return Answer({NUM_EXAMPLES: len(examples)}, statistics)


def candidate_loss(context: QueryContext) -> Answer:
    """Return the candidate's loss on the same images, with the running statistics of the message.

    If the message contains the candidate instead, statistics are not sent, and the client estimates them on these
    images (``own_statistics``).
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
    """Load the candidate from the message, or from the state with statistics from the message; return the images."""
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
    """Return the share of the client's training images that the message asks for, the same images in all queries."""
    examples = context.data
    share = max(1, round(float(str(context.config[SHARE])) * len(examples)))
    chosen = torch.randperm(len(examples), generator=context.generator_for(PURPOSE))[:share]
    chosen = chosen.to(examples.labels.device)
    return examples.of(chosen)
