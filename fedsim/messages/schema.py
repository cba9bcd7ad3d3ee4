"""What the messages of a run hold, in one place: the names of their records, entries and types."""

from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from fedsim.messages.arrays import count_bytes

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
GIVEN = "given"
"""What the server gives a client once, to keep: entries of the model that are neither trained nor sent back."""
MASKS = "masks"
"""Which weights are kept, by layer, in the form of ``fedsim/methods/sparse/masks.py``; given like the others. In a
reply, the client's own, of the layers where it was asked to replace weights."""
GRADIENTS = "gradients"
"""In a reply, the largest gradients of weights that are not kept: ``LAYER/places`` and ``LAYER/values``."""
SQUARES = "squares"
"""In a config, whether sums of squared gradients of all weights are asked for; in a reply, those, by layer."""
SQUARES_SINCE = "squares-since"
"""In a config, from which round on, counted from 1, a client is to add them up; not there: not at all."""
PLACES, VALUES = "/places", "/values"
GROW = "grow-"
"""Stands before the name of a layer in a config; the value is how many gradients of it are asked for."""
REPLACE = "replace-"
"""Likewise, how many of its weights the client is to replace by others, which makes a mask of its own."""
COLLAPSE = "collapse"
"""The class means of all clients and what to project on, beside the model."""
# The names Flower's own strategies use, so that ours and theirs can talk to each other's clients.
ROUND = "server-round"
NUM_EXAMPLES = "num-examples"

TRAIN = MessageType.TRAIN
EVALUATE = MessageType.EVALUATE
EVALUATE_GLOBAL = "evaluate.global_model"
"""The complete model in the message, nothing personal, on the test set of the domain that the config names."""
QUERY_STATE = "query.state"
"""Asks for all that a client keeps; for measuring (the averaged personal part), never for a method."""
QUERY_ACTIVATIONS = "query.activations"
QUERY_CLASS_SCATTER = "query.class_scatter"
"""Both for diagnosing, see ``fedsim/diagnostics``: sums over a client's training images, never one of them."""
QUERY_NODE = "query.node"
"""Asks a node which clients it plays, and how many images it has of its own; see ``fedsim/devices``."""
KEEPS = "keeps"
"""In a reply, whether the client now keeps something; in a message, whether it should."""
DEVICE_SECONDS, DEVICE_PEAK_MB = "device_seconds", "device_peak_mb"
"""In a device's reply, how long it took and the largest memory of its process; the largest of a round is recorded."""
EVALUATE_PARTS = "evaluate"
"""In a training message, on which parts of its images the client is to evaluate what it received, before it trains."""
EVALUATION = "evaluation-"
"""Stands before the name of the part in the reply's record with those numbers."""
QUERY_BN_STATISTICS = "query.bn_statistics"
"""Asks for the statistics that BatchNorm has in a candidate model, on a share of a client's training images."""
QUERY_CANDIDATE_LOSS = "query.candidate_loss"
"""Asks for that model's loss on the same images, with the statistics of the message, or with the client's own under the
candidate that it brings."""
QUERY_GRADIENTS = "query.gradients"
"""Asks for the dense model's gradients on such a share, by layer."""
SHARE, LAYERS = "share", "layers"
GLOBAL = "global"
"""Whether a query is about the complete model in the message, without the client's personal part."""
ADAPTED = "adapted"
"""Stands before the names of metrics of a model that has adapted itself to the test images."""
DOMAIN = "domain"
PART = "part"
"""What a client is evaluated on: ``TEST``, or ``VALIDATION``"""


def message(type_: str, client: int, arrays: ArrayRecord | None, config: ConfigRecord | None = None) -> Message:
    content = RecordDict({CONFIG: ConfigRecord() if config is None else config})
    if arrays is not None:
        content[ARRAYS] = arrays
    return Message(content=content, message_type=type_, dst_node_id=client)


def config_of(message: Message) -> ConfigRecord:
    record = message.content.get(CONFIG, ConfigRecord())
    assert isinstance(record, ConfigRecord)
    return record


def counts_of(config: Mapping[str, object], prefix: str) -> dict[str, int]:
    """By layer, the whole numbers that a config has under such names: ``GROW`` or ``REPLACE`` and the layer."""
    return {name.removeprefix(prefix): int(str(count)) for name, count in config.items() if name.startswith(prefix)}


def arrays_of(message: Message) -> ArrayRecord:
    """The ``ArrayRecord`` with the model, or else the first one, under whatever name; empty where there is none."""
    records = message.content.array_records
    return records[ARRAYS] if ARRAYS in records else next(iter(records.values()), ArrayRecord())


def metrics_of(message: Message) -> MetricRecord:
    """The message's one ``MetricRecord``, under whatever name; empty where there is none."""
    return next(iter(message.content.metric_records.values()), MetricRecord())


def bytes_of(message: Message) -> int:
    """The bytes of all arrays that a message holds."""
    return sum(map(count_bytes, message.content.array_records.values()))


def number(metrics: MetricRecord, name: str) -> float:
    value = metrics[name]
    if isinstance(value, list):
        raise TypeError(f"the metric {name} is a list, not a number")
    return float(value)
