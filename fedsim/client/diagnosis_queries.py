"""The client's answers to the queries of a diagnosis (``diagnostics=true``): statistics of activations and features."""

import torch
from flwr.app import Context, Message, RecordDict
from torch import nn

from datasets.examples import Examples
from datasets.source import Part
from fedsim.client.host import ClientHost, partition_of
from fedsim.config.settings import Settings
from fedsim.diagnostics.activations import activation_statistics, class_scatter
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import COLLAPSE, GLOBAL, ROUND, arrays_of, config_of
from fedsim.methods.client_state import ClientState
from fedsim.models.layer_map import as_written, norm_sites
from fedsim.norms.tokens import channels_last


class DiagnosisQueries:
    """Answers for every client, with the model of the host."""

    def __init__(self, host: ClientHost, settings: Settings) -> None:
        self._host, self._images = host, settings.diagnostics_images
        self._layers: dict[str, nn.Module] = {}
        self._channels_last: frozenset[str] = frozenset()
        if settings.diagnostics:
            federation = host.federation
            written = as_written(settings.model, federation.num_classes, federation.source.image_shape)
            self._layers = norm_sites(written, host.model)
            self._channels_last = frozenset(channels_last(written))

    def activations(self, message: Message, context: Context) -> Message:
        """Return ``activation_statistics`` on some of the client's training images, for a diagnosis."""
        examples = self._load_for_diagnosis(message, context)
        images, labels = self._diagnosed(examples)
        round = int(str(config_of(message)[ROUND]))
        with self._host.policy.evaluating(self._host.model, lambda: self._host.images_of(examples)):
            statistics = activation_statistics(
                self._host.model,
                self._layers,
                images,
                labels,
                self._host.federation.num_classes,
                # As in the training that starts from this model, which is the next round's.
                as_in_training=len(labels) > 1 and not self._host.policy.frozen(round + 1),
                channels_last=self._channels_last,
            )
        return self._host.reply(message, {}, to_record({name: tensor.cpu() for name, tensor in statistics.items()}))

    def class_scatter(self, message: Message, context: Context) -> Message:
        """Return ``class_scatter`` on the same images, given the class means over all clients."""
        examples = self._load_for_diagnosis(message, context)
        images, labels = self._diagnosed(examples)
        collapse = to_tensors(message.content.array_records[COLLAPSE])
        means, projection = (collapse[each].to(self._host.device) for each in ("means", "projection"))
        with self._host.policy.evaluating(self._host.model, lambda: self._host.images_of(examples)):
            metrics = class_scatter(self._host.model, images, labels, means, projection)
        return self._host.reply(message, metrics)

    def _load_for_diagnosis(self, message: Message, context: Context) -> Examples:
        """Load the client's model, or the global one of the message; return the client's training images."""
        state = ClientState(context.state)
        if config_of(message).get(GLOBAL, False):
            self._host.load(to_tensors(arrays_of(message)), ClientState(RecordDict()))
        else:
            received, known = self._host.unpack(message, state)
            self._host.load(received, state, known)
        return self._host.examples(partition_of(context), Part.TRAIN)

    def _diagnosed(self, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        """Return every n-th image and its label, so that there are at most ``diagnostics_images``."""
        step = -(-len(examples) // self._images)
        return examples.batch(torch.arange(0, len(examples), step, device=self._host.device))
