"""Names of the records of sparse training in messages and replies, and checks of these replies."""

from collections.abc import Collection, Mapping

import torch

from fedsim.methods.reply_records import (
    Question,
    ReplyFault,
    Tensors,
    no_arrays,
    refuse_other_form,
    refuse_other_names,
    refuse_without,
)
from fedsim.methods.sparse.masks import decode, entry, kept

MASKS = "masks"
"""The masks by layer, encoded by ``masks.encode``: a cached broadcast. In a reply, the client's own masks, of the
layers in which it was asked to replace weights."""
GRADIENTS = "gradients"
"""In a reply, the largest gradients of inactive weights: ``LAYER/places`` (indices) and ``LAYER/values``."""
SQUARES = "squares"
"""In a config, whether sums of squared gradients of all weights are requested; in a reply, these sums by layer."""
SQUARES_SINCE = "squares-since"
"""In a config, the round, counted from 1, with which a client starts to add up squares; absent if it should not."""
PLACES, VALUES = "/places", "/values"
GROW = "grow-"
"""Prefix of a layer's name in a config; the value is the number of gradients that are requested."""
REPLACE = "replace-"
"""Prefix of a layer's name in a config; the value is the number of weights that the client replaces in its own mask."""
BN_STATISTICS = "bn_statistics"
"""The query for the BatchNorm statistics of a candidate, on a share of a client's training images."""
CANDIDATE_LOSS = "candidate_loss"
"""The query for the candidate's loss on the same images, with the statistics of the message, or with the client's own
statistics if the message contains the candidate."""
LAYER_GRADIENTS = "gradients"
"""The query for the gradients of all weights on such a share of images, by layer."""
SHARE, LAYERS = "share", "layers"


def counts_of(config: Mapping[str, object], prefix: str) -> dict[str, int]:
    """Return the integers that a config has under ``prefix`` (``GROW`` or ``REPLACE``) and a layer, by layer."""
    return {name.removeprefix(prefix): int(str(count)) for name, count in config.items() if name.startswith(prefix)}


def check_masks(tensors: Tensors, question: Question) -> None:
    """Refuse masks of other layers than requested, or with another number of active weights than were sent.

    Raises:
        ReplyFault: If the layers or numbers differ.
        Exception: If a mask cannot be decoded, whatever decoding raises.
    """
    if tensors.keys() != counts_of(question.config, REPLACE).keys():
        raise ReplyFault("it sent the masks of other layers than it was asked for")
    masks = decode(tensors, {layer: question.initial[entry(layer)].shape for layer in tensors})
    for layer, count in kept(masks).items():
        wanted = question.sent[entry(layer)].numel()
        if count != wanted:
            raise ReplyFault(f"its mask of {layer} keeps {count} weights, which are {wanted}")


def check_largest_gradients(tensors: Tensors, question: Question) -> None:
    """Refuse gradients of other layers or more of them than requested, and indices outside the weight.

    Raises:
        ReplyFault: If there are any; the message names the layer.
    """
    wanted = counts_of(question.config, GROW)
    if tensors.keys() != {f"{layer}{kind}" for layer in wanted for kind in (PLACES, VALUES)}:
        raise ReplyFault("it sent the gradients of other layers than it was asked for")
    for layer, count in wanted.items():
        places, values = tensors[layer + PLACES], tensors[layer + VALUES]
        size = question.initial[entry(layer)].numel()
        if places.shape != values.shape or places.dim() != 1 or len(places) > count or places.is_floating_point():
            raise ReplyFault(f"it sent gradients of {layer} in another form than it was asked for")
        if len(places) and not 0 <= int(places.min()) <= int(places.max()) < size:
            raise ReplyFault(f"it sent the gradient of a weight that {layer} does not have")


def check_squares(tensors: Tensors, question: Question, layers: Collection[str]) -> None:
    """Refuse sums of squared gradients that were not asked for, of other layers, or in another form than the weights.

    Raises:
        ReplyFault: If there are any; the message names the layer.
    """
    if tensors and not question.config.get(SQUARES):
        raise ReplyFault("it sent squared gradients that nobody asked for")
    if question.config.get(SQUARES):
        check_layers(tensors, question, layers, "squared gradients")


def check_loss(tensors: Tensors, question: Question) -> None:
    """Refuse arrays, or a reply without a loss, where a loss was asked for.

    Raises:
        ReplyFault: If there are arrays, or no loss.
    """
    no_arrays(tensors, question)
    refuse_without("loss", question)


def check_gradients(tensors: Tensors, question: Question) -> None:
    """Refuse gradients of other layers than the message names, or in another form than the weights.

    Raises:
        ReplyFault: If there is one; the message names the layer.
    """
    layers = question.config[LAYERS]
    assert isinstance(layers, list)
    check_layers(tensors, question, list(map(str, layers)), "gradients")


def check_layers(tensors: Tensors, question: Question, layers: Collection[str], what: str) -> None:
    """Refuse what is not of exactly these layers, in the form of a layer's weight.

    Raises:
        ReplyFault: Naming the layer.
    """
    refuse_other_names(tensors, layers, what)
    for layer, tensor in tensors.items():
        if entry(layer) not in question.initial:
            raise ReplyFault(f"it sent numbers of {layer[:40]!r}, which the model does not have")
        refuse_other_form(layer, tensor, torch.empty(question.initial[entry(layer)].shape, device="meta"))
