"""The Flower ClientApp: the same client code on SuperNodes, simulated by Flower or real devices.

A simulated node may host several partitions of the federation (``fedsim/deployment/partition_grid.py``); their states
are stored separately. A device follows the server's settings only as far as ``fedsim/deployment/devices/node.py`` lets
it. An error on a device is written to the device's own log; the server learns only that there was one, so that it sees
no file names of the device.
"""

import logging
import shlex
import sys
import time
from collections.abc import Callable
from functools import lru_cache, wraps

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from datasets.devices import NAME as DEVICES
from datasets.source import Part
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings, settings_on_nodes
from fedsim.core.errors import Refusal
from fedsim.core.hardware import resolve_devices
from fedsim.core.memory import peak_memory_mb
from fedsim.core.threads import fix_threads
from fedsim.deployment.devices.client_state_store import ClientStateStore
from fedsim.deployment.devices.node import NodeConfig, confined
from fedsim.deployment.devices.own_federation import federation_of
from fedsim.deployment.devices.state import AFRESH
from fedsim.deployment.partition_grid import PARTITION
from fedsim.messages.packing import Packer, unpacked
from fedsim.messages.schema import (
    CONFIG,
    DEVICE_PEAK_MB,
    DEVICE_SECONDS,
    EVALUATE_GLOBAL,
    KEEPS,
    PACKED_REPLY,
    QUERY_ACTIVATIONS,
    QUERY_CLASS_SCATTER,
    QUERY_STATE,
    ROUND,
    TRAIN,
    config_of,
)

log = logging.getLogger(__name__)

app = ClientApp()
MEASURING = (QUERY_STATE, QUERY_ACTIVATIONS, QUERY_CLASS_SCATTER, EVALUATE_GLOBAL)
"""Messages that no method needs for training: a device answers them only if its node-config allows it."""
Handler = Callable[[Message, Context], Message]


def _discreet(handler: Handler) -> Handler:
    """Wrap a handler so that a device hides its errors from the server, except those meant for it.

    The server receives the type of the message and of the exception; the traceback goes to the device's log. A
    ``Refusal`` and all errors in a simulation pass unchanged.
    """

    @wraps(handler)
    def discreet(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except Refusal:
            raise
        except Exception as error:
            if _in_simulation():
                raise
            log.exception("%s could not be answered", message.metadata.message_type)
            words = f"{message.metadata.message_type} failed ({type(error).__name__}): the device's own log says why."
            raise Refusal(words) from None

    return discreet


@app.query("node")
@_discreet
def who(message: Message, context: Context) -> Message:
    """Report which clients this node hosts, and nothing about the device beyond what the server needs."""
    node = NodeConfig.of(context.node_config, simulated=_in_simulation())
    settings = _settings(str(context.run_config["overrides"]))
    images = (0, 0, 0)
    if settings.dataset["name"] == DEVICES:
        federation = federation_of(settings, node)
        train, validation, test = (
            federation.num_images(node.partition, part) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)
        )
        images = (train, validation, test)
    return Message(RecordDict({CONFIG: node.profile(images).told()}), reply_to=message)


@app.train()
@app.evaluate()
@app.evaluate("global_model")
@app.query("method")
@app.query("state")
@app.query("activations")
@app.query("class_scatter")
@_discreet
def answer(message: Message, context: Context) -> Message:
    """Let the client whose partition the message names answer it.

    Raises:
        Refusal: If this device does not answer such messages, does not host the client, or has lost its state.
    """
    fix_threads()
    started, type_ = time.monotonic(), message.metadata.message_type
    node = NodeConfig.of(context.node_config, simulated=_in_simulation())
    if type_ in MEASURING and not (node.simulated or node.share_personal):
        raise Refusal(f"{type_} is not answered by a device without share-personal=true.")
    partition = int(str(config_of(message)[PARTITION]))
    if not node.profile().hosts(partition):
        raise Refusal(f"client {partition} is not played by this node, whose partition-id is {node.partition}.")
    words = str(context.run_config["overrides"])
    kept = ClientStateStore(context, node, words, partition)
    training = int(str(config_of(message)[ROUND])) if type_ == TRAIN else None
    state = kept.load(training)
    if config_of(message).get(KEEPS, False) and not state and not node.state_afresh:
        raise Refusal(f"client {partition} has lost what it kept of this run (is there a state-dir?): {AFRESH}")
    guest = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config={"partition-id": partition},
        state=state.copy(),
        run_config=context.run_config,
    )
    message.content = unpacked(message.content)
    reply = _host(words, node)(message, guest)
    if guest.state.keys() != state.keys() or any(guest.state[name] is not state[name] for name in state):
        kept.save(guest.state, training, state)
    config = config_of(reply).copy()
    config[KEEPS] = len(guest.state) > 0
    if training is not None:
        config[DEVICE_SECONDS], config[DEVICE_PEAK_MB] = time.monotonic() - started, peak_memory_mb()
    reply.content[CONFIG] = config
    if config_of(message).get(PACKED_REPLY, False):
        reply.content = Packer()(reply.content)
    return reply


@lru_cache(maxsize=1)
def _host(words: str, node: NodeConfig) -> ClientApp:
    """Return the app that answers for every partition, built once per process."""
    settings = confined(_settings(words), node)
    factory = ClientAppFactory(settings, federation_of(settings, node), on_device=not node.simulated)
    return factory(resolve_devices(settings.device)[0])


@lru_cache(maxsize=1)
def _settings(words: str) -> Settings:
    return settings_on_nodes(shlex.split(words))


def _in_simulation() -> bool:
    """Return whether Flower simulates this node: simulated nodes are Ray actors, the apps of a SuperNode are not.

    The node's own configuration is not asked, since a simulated node follows the server's settings without limits.
    """
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
