"""What the messages of a run hold, in one place: the names of their records, entries and types.

A message has the model under ``arrays`` and what is to be done under ``config``. What a method sends beside them is
its own: a record whose name begins with ``cached/`` is sent once and kept by the client, any other is for this message
only.
"""

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from fedsim.messages.arrays import count_bytes

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
CACHED = "cached/"
"""Begins the name of a record that the server sends a client once, to keep; see ``CachedBroadcast``."""
ENTRIES = "entries"
"""The cached record of entries of the model that are neither trained nor sent back, such as a fixed classifier."""
MOVED_ENTRIES = "moved-entries"
"""In a config, the entries whose numbers stand, in the reply, for other places than in the message: they are neither
compared with what was sent nor compressed against it."""
COLLAPSE = "collapse"
"""The class means of all clients and what to project on, beside the model."""
# The names Flower's own strategies use, so that ours and theirs can talk to each other's clients.
ROUND = "server-round"
NUM_EXAMPLES = "num-examples"

TRAIN = MessageType.TRAIN
EVALUATE = MessageType.EVALUATE
EVALUATE_GLOBAL = "evaluate.global_model"
"""The complete model in the message, nothing personal, on the test set of the domain that the config names."""
QUERY_METHOD = "query.method"
"""A question of the method's own, which ``QUERY`` names."""
QUERY = "query"
QUERY_STATE = "query.state"
"""Asks for all that a client keeps; for measuring (the averaged personal part), never for a method."""
QUERY_ACTIVATIONS = "query.activations"
QUERY_CLASS_SCATTER = "query.class_scatter"
"""Both for diagnosing, see ``fedsim/diagnostics``: sums over a client's training images, never one of them."""
QUERY_NODE = "query.node"
"""Asks a node which clients it hosts, and how many images it has of its own; see ``fedsim/deployment/devices``."""
KEEPS = "keeps"
"""In a reply, whether the client now keeps something; in a message, whether it should."""
DEVICE_SECONDS, DEVICE_PEAK_MB = "device_seconds", "device_peak_mb"
"""In a device's reply, how long it took and the largest memory of its process; the largest of a round is recorded."""
EVALUATE_PARTS = "evaluate"
"""In a training message, on which parts of its images the client is to evaluate what it received, before it trains."""
EVALUATION = "evaluation-"
"""Begins the name of the reply's record with those numbers; the name of the part follows."""
GLOBAL = "global"
"""Whether a query is about the complete model in the message, without the client's personal part."""
ADAPTED = "adapted"
"""Begins the names of metrics of a model that has adapted itself to the test images."""
DOMAIN = "domain"
PART = "part"
"""What a client is evaluated on: ``TEST``, or ``VALIDATION``."""


def message(type_: str, client: int, arrays: ArrayRecord | None, config: ConfigRecord | None = None) -> Message:
    """Return a message to a client with a config and, if there are any, arrays."""
    content = RecordDict({CONFIG: ConfigRecord() if config is None else config})
    if arrays is not None:
        content[ARRAYS] = arrays
    return Message(content=content, message_type=type_, dst_node_id=client)


def kind_of(message: Message) -> str:
    """Return what a message is about, as faults name it: its type, and of a method's query ``query.NAME``."""
    type_ = message.metadata.message_type
    return f"query.{config_of(message).get(QUERY)!s}" if type_ == QUERY_METHOD else type_


def config_of(message: Message) -> ConfigRecord:
    """Return the message's config; an empty one where there is none."""
    record = message.content.get(CONFIG, ConfigRecord())
    assert isinstance(record, ConfigRecord)
    return record


def moved_entries(config: ConfigRecord) -> frozenset[str]:
    """Return what ``MOVED_ENTRIES`` names."""
    names = config.get(MOVED_ENTRIES, [])
    assert isinstance(names, list)
    return frozenset(map(str, names))


def arrays_of(message: Message) -> ArrayRecord:
    """Return the ``ArrayRecord`` with the model, or else the first one, under whatever name; empty without any."""
    arrays = message.content.get(ARRAYS)  # at once: Flower makes ``array_records`` anew whenever it is asked for
    if isinstance(arrays, ArrayRecord):
        return arrays
    return next(iter(message.content.array_records.values()), ArrayRecord())


def metrics_of(message: Message) -> MetricRecord:
    """Return the message's first ``MetricRecord``, under whatever name; empty without any."""
    return next(iter(message.content.metric_records.values()), MetricRecord())


def bytes_of(message: Message) -> int:
    """Return the bytes of all arrays that a message holds."""
    return sum(map(count_bytes, message.content.array_records.values()))


def number(metrics: MetricRecord, name: str) -> float:
    """Return a metric that is one number.

    Raises:
        TypeError: If it is a list.
    """
    value = metrics[name]
    if isinstance(value, list):
        raise TypeError(f"the metric {name} is a list, not a number")
    return float(value)
