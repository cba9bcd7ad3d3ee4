"""HBN's client (Chen et al., ICML 2025, arXiv 2505.21877): it mixes statistics by a factor of its own."""

from types import MappingProxyType

import torch
from flwr.app import ArrayRecord
from torch import nn

from clients.local_sgd import LocalSGD, Tensors
from datasets.examples import Examples
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import NUM_EXAMPLES
from fedsim.methods.interfaces import Answer, ClientContext, QueryContext, TrainingContext
from fedsim.norms import hybrid_layers, mixtures_seen

STATISTICS = "statistics"
"""The record of a reply, and the query, with the statistics of this client's images."""
IMAGES = "statistics-images"
"""The largest number of images, in the config of a message."""
MIX = "mix"
"""The parameter of a layer that decides what it mixes, and the record of the client's state with its own."""


class HBN(LocalSGD):
    """Trains with hybrid layers (``norm=hbn``), whose factors it keeps from one of its rounds to the next.

    A client that has trained before starts from its own factors, whatever the server sends; the server averages what
    comes back, and a client in its first round starts from that. Before the first step, and when asked for it with the
    new model, it reports the statistics by which its layers normalize its first images. What is computed at evaluation
    does not depend on the factors.
    """

    stackable = True

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Report the statistics of the model that the client was sent."""
        images = _first_images(context.data, context)
        context.reply[STATISTICS] = to_record(_statistics(model, images))

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Keep the factors."""
        names = [f"{layer}.{MIX}" if layer else MIX for layer in hybrid_layers(model)]
        state = model.state_dict()
        context.state[MIX] = to_record({name: state[name].clone() for name in names})

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return what was sent, with the client's own factors in the place of the average."""
        return {**arrays, **_own(arrays, context)}


def _statistics_of(context: QueryContext) -> Answer:
    """Return the statistics of the message's model with the client's factors, on its first images."""
    context.load({**context.arrays, **_own(context.arrays, context)})
    images = _first_images(context.data, context)
    return Answer({NUM_EXAMPLES: len(images)}, _statistics(context.model, images))


HBN.queries = MappingProxyType({STATISTICS: _statistics_of})


def _own(arrays: Tensors, context: ClientContext) -> Tensors:
    kept = context.state.get(MIX)
    own = to_tensors(kept) if isinstance(kept, ArrayRecord) else {}
    return {name: own[name].to(tensor.device) for name, tensor in arrays.items() if name in own}


def _first_images(data: Examples, context: ClientContext) -> torch.Tensor:
    count = min(int(str(context.config[IMAGES])), len(data))
    return data.batch(torch.arange(count, device=data.labels.device))[0]


def _statistics(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad(), mixtures_seen(model) as statistics:
        model(images)
    return statistics
