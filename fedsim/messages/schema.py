"""The schema of messages: names of their records, entries and types.

A message has the model under ``arrays`` and instructions under ``config``. Further records belong to the method: a
record whose name begins with ``cached/`` is sent once and stored by the client, any other is for this message only.
"""

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from fedsim.messages.arrays import count_bytes

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
CACHED = "cached/"
"""Prefix of the name of a record that is sent once and stored by the client; see ``CachedBroadcast``."""
ENTRIES = "entries"
"""The cached record of entries of the model that are neither trained nor sent back, such as a fixed classifier."""
MOVED_ENTRIES = "moved-entries"
"""In a config, the entries whose numbers belong, in the reply, to other indices than in the message: they are neither
compared with the sent entries nor compressed against them."""
COLLAPSE = "collapse"
"""The record with the class means over all clients and a projection, beside the model."""
# The names that Flower's own strategies use, so that strategies and clients of both can be combined.
ROUND = "server-round"
NUM_EXAMPLES = "num-examples"

TRAIN = MessageType.TRAIN
EVALUATE = MessageType.EVALUATE
EVALUATE_GLOBAL = "evaluate.global_model"
"""Evaluates the complete model in the message, without personal parts, on the test set of the domain in the config."""
QUERY_METHOD = "query.method"
"""A query of the method, whose name is in the config under ``QUERY``."""
QUERY = "query"
QUERY_STATE = "query.state"
"""Queries the whole client state; for measurement (the average of personal parts), never for a method."""
QUERY_ACTIVATIONS = "query.activations"
QUERY_CLASS_SCATTER = "query.class_scatter"
"""Both are for diagnostics, see ``fedsim/diagnostics``: replies have sums over training images, never an image."""
QUERY_NODE = "query.node"
"""Queries which clients a node hosts, and how many images it has; see ``fedsim/deployment/devices``."""
KEEPS = "keeps"
"""In a reply, whether the client stores state; in a message, whether it should."""
PACKED_REPLY = "packed"
"""In a message, whether the reply is to be packed; see ``fedsim/messages/packing.py``."""
DEVICE_SECONDS, DEVICE_PEAK_MB = "device_seconds", "device_peak_mb"
"""In a device's reply, its time and the peak memory of its process; the largest of a round is recorded."""
EVALUATE_PARTS = "evaluate"
"""In a training message, the parts of its images on which the client evaluates the received model before training."""
EVALUATION = "evaluation-"
"""Prefix of the name of the reply's record with those results; the name of the part follows."""
GLOBAL = "global"
"""Whether a query is about the complete model in the message, without the client's personal part."""
ADAPTED = "adapted"
"""Prefix of the names of metrics of a model that was adapted to the test images."""
DOMAIN = "domain"
PART = "part"
"""The part of its images on which a client evaluates: ``TEST`` or ``VALIDATION``."""


def message(type_: str, client: int, arrays: ArrayRecord | None, config: ConfigRecord | None = None) -> Message:
    """Return a message to a client with a config and, if there are any, arrays."""
    content = RecordDict({CONFIG: ConfigRecord() if config is None else config})
    if arrays is not None:
        content[ARRAYS] = arrays
    return Message(content=content, message_type=type_, dst_node_id=client)


def kind_of(message: Message) -> str:
    """Return the kind of a message for records of faults: its type, or ``query.NAME`` for a query of the method."""
    type_ = message.metadata.message_type
    return f"query.{config_of(message).get(QUERY)!s}" if type_ == QUERY_METHOD else type_


def config_of(message: Message) -> ConfigRecord:
    """Return the message's config; an empty one if it has none."""
    record = message.content.get(CONFIG, ConfigRecord())
    assert isinstance(record, ConfigRecord)
    return record


def moved_entries(config: ConfigRecord) -> frozenset[str]:
    """Return the names in ``MOVED_ENTRIES``."""
    names = config.get(MOVED_ENTRIES, [])
    assert isinstance(names, list)
    return frozenset(map(str, names))


def arrays_of(message: Message) -> ArrayRecord:
    """Return the ``ArrayRecord`` named ``arrays``, or else the first one under any name; empty without any."""
    arrays = message.content.get(ARRAYS)  # at once: Flower makes ``array_records`` anew whenever it is asked for
    if isinstance(arrays, ArrayRecord):
        return arrays
    return next(iter(message.content.array_records.values()), ArrayRecord())


def metrics_of(message: Message) -> MetricRecord:
    """Return the ``MetricRecord`` named ``metrics``, or else the first one under any name; empty without any."""
    metrics = message.content.get(METRICS)
    if isinstance(metrics, MetricRecord):
        return metrics
    return next(iter(message.content.metric_records.values()), MetricRecord())


def bytes_of(message: Message) -> int:
    """Return the bytes of all arrays in a message."""
    return sum(count_bytes(record) for record in message.content.values() if isinstance(record, ArrayRecord))


def number(metrics: MetricRecord, name: str) -> float:
    """Return a metric that is one number.

    Raises:
        TypeError: If it is a list.
    """
    value = metrics[name]
    if isinstance(value, list):
        raise TypeError(f"the metric {name} is a list, not a number")
    return float(value)
