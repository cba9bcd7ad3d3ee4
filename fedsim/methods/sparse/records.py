"""What sparse training has in its messages and replies, and the checks of those replies."""

from collections.abc import Collection, Mapping

import torch

from fedsim.methods.reply_records import Question, ReplyFault, Tensors, refuse_other_form, refuse_other_names
from fedsim.methods.sparse.masks import decode, entry, kept

MASKS = "masks"
"""Which weights are kept, by layer, in the form of ``masks.encode``: a cached broadcast. In a reply, the client's own,
of the layers where it was asked to replace weights."""
GRADIENTS = "gradients"
"""In a reply, the largest gradients of weights that are not kept: ``LAYER/places`` and ``LAYER/values``."""
SQUARES = "squares"
"""In a config, whether sums of squared gradients of all weights are asked for; in a reply, those, by layer."""
SQUARES_SINCE = "squares-since"
"""In a config, from which round on, counted from 1, a client is to add them up; not there: not at all."""
PLACES, VALUES = "/places", "/values"
GROW = "grow-"
"""Begins a config's name of a layer; the value is how many gradients of it are asked for."""
REPLACE = "replace-"
"""Likewise, how many of its weights the client is to replace by others, which makes a mask of its own."""
BN_STATISTICS = "bn_statistics"
"""The query for the statistics that BatchNorm has in a candidate model, on a share of a client's training images."""
CANDIDATE_LOSS = "candidate_loss"
"""The query for that model's loss on the same images, with the statistics of the message, or with the client's own
under the candidate that it brings."""
LAYER_GRADIENTS = "gradients"
"""The query for the gradients of all weights on such a share, by layer."""
SHARE, LAYERS = "share", "layers"


def counts_of(config: Mapping[str, object], prefix: str) -> dict[str, int]:
    """Return, by layer, the whole numbers that a config has under ``GROW`` or ``REPLACE`` and the layer."""
    return {name.removeprefix(prefix): int(str(count)) for name, count in config.items() if name.startswith(prefix)}


def check_masks(tensors: Tensors, question: Question) -> None:
    """Refuse masks of other layers than those in which the client was to replace weights, or of other sizes.

    Raises:
        ReplyFault: Or anything, for what cannot be decoded.
    """
    if tensors.keys() != counts_of(question.config, REPLACE).keys():
        raise ReplyFault("it sent the masks of other layers than it was asked for")
    masks = decode(tensors, {layer: question.initial[entry(layer)].shape for layer in tensors})
    for layer, count in kept(masks).items():
        wanted = question.sent[entry(layer)].numel()
        if count != wanted:
            raise ReplyFault(f"its mask of {layer} keeps {count} weights, which are {wanted}")


def check_largest_gradients(tensors: Tensors, question: Question) -> None:
    """Refuse gradients of other layers, more of them, or of other places than were asked for.

    Raises:
        ReplyFault: Naming the layer.
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
        ReplyFault: Naming the layer.
    """
    if tensors and not question.config.get(SQUARES):
        raise ReplyFault("it sent squared gradients that nobody asked for")
    if question.config.get(SQUARES):
        check_layers(tensors, question, layers, "squared gradients")


def check_gradients(tensors: Tensors, question: Question) -> None:
    """Refuse gradients of other layers than the message names, or in another form than the weights.

    Raises:
        ReplyFault: Naming the layer.
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
