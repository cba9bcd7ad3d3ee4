"""The Flower ClientApp: the same client code on SuperNodes, simulated by Flower or real devices.

A simulated node may play several partitions of the federation (``fedsim/engines/flower.py``); their states are kept
apart. A device follows the server's settings only as far as ``fedsim/devices/node.py`` lets it, and with a
``state-dir`` it keeps its state on its disk.
"""

import shlex
import time
from functools import lru_cache

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from datasets.build import build_federation
from datasets.devices import NAME as DEVICES
from datasets.devices import own_federation
from datasets.federation import Federation
from datasets.source import Part
from fedsim.client_host import ClientAppFactory
from fedsim.config import compose
from fedsim.devices.node import NodeConfig, confined
from fedsim.devices.state import AFRESH, StateDir
from fedsim.engines.flower import PARTITION
from fedsim.engines.handle import fix_threads
from fedsim.errors import UserError
from fedsim.hardware import resolve_devices
from fedsim.memory import peak_memory_mb
from fedsim.messages import (
    CONFIG,
    DEVICE_PEAK_MB,
    DEVICE_SECONDS,
    KEEPS,
    QUERY_ACTIVATIONS,
    QUERY_CLASS_SCATTER,
    QUERY_STATE,
    ROUND,
    TRAIN,
    config_of,
)
from fedsim.settings import Settings

app = ClientApp()
MEASURING = (QUERY_STATE, QUERY_ACTIVATIONS, QUERY_CLASS_SCATTER)
"""What no method needs: a device answers only if its node-config says so."""


@app.query("node")
def who(message: Message, context: Context) -> Message:
    """Which clients this node plays; nothing of the device but what the server has to know."""
    node = NodeConfig.of(context.node_config)
    settings = _settings(str(context.run_config["overrides"]))
    images = (0, 0, 0)
    if settings.dataset["name"] == DEVICES:
        federation = _federation(settings, node)
        train, validation, test = (
            federation.num_images(node.partition, part) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)
        )
        images = (train, validation, test)
    return Message(RecordDict({CONFIG: node.profile(images).told()}), reply_to=message)


@app.train()
@app.evaluate()
@app.evaluate("global_model")
@app.query("state")
@app.query("activations")
@app.query("class_scatter")
@app.query("bn_statistics")
@app.query("candidate_loss")
@app.query("gradients")
def answer(message: Message, context: Context) -> Message:
    """Lets the partition that the message names answer it."""
    fix_threads()
    node, words = NodeConfig.of(context.node_config), str(context.run_config["overrides"])
    if message.metadata.message_type in MEASURING and not (node.simulated or node.share_personal):
        raise UserError(f"{message.metadata.message_type} is not answered by a device without share-personal=true.")
    partition = int(str(config_of(message)[PARTITION]))
    if not node.profile().hosts(partition):
        raise UserError(f"client {partition} is not played by this node, whose partition-id is {node.partition}.")
    kept = _Kept(context, node, words, partition)
    round = int(str(config_of(message).get(ROUND, -1)))
    trained = round if message.metadata.message_type == TRAIN else None
    state = kept.load(trained)
    if config_of(message).get(KEEPS, False) and not state and not node.state_afresh:
        raise UserError(f"client {partition} has lost what it kept of this run (is there a state-dir?): {AFRESH}")
    guest = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config={"partition-id": partition},
        state=state.copy(),
        run_config=context.run_config,
    )
    started = time.monotonic()
    reply = _host(words, node)(message, guest)
    if any(guest.state[name] is not state.get(name) for name in guest.state):
        kept.save(guest.state, trained, state)
    config = config_of(reply).copy()
    config[KEEPS] = len(guest.state) > 0
    if trained is not None:
        config[DEVICE_SECONDS], config[DEVICE_PEAK_MB] = time.monotonic() - started, peak_memory_mb()
    reply.content[CONFIG] = config
    return reply


class _Kept:
    """What one partition keeps: on the disk where the node has a ``state-dir``, else in Flower's ``Context``."""

    def __init__(self, context: Context, node: NodeConfig, words: str, partition: int) -> None:
        self.context, self.partition, self.prefix = context, partition, f"{partition}/"
        self.disk = None
        if node.state_dir is not None:
            self.disk = StateDir(node.state_dir, context.run_id, words, node.state_afresh, node.keep_runs)

    def load(self, training: int | None) -> RecordDict:
        if self.disk is not None:
            return self.disk.load(self.partition, training)
        mine = [name for name in self.context.state if name.startswith(self.prefix)]
        return RecordDict({name.removeprefix(self.prefix): self.context.state[name] for name in mine})

    def save(self, state: RecordDict, trained: int | None, before: RecordDict) -> None:
        if self.disk is not None:
            self.disk.save(self.partition, state, -1 if trained is None else trained, before)
            return
        for name, record in state.items():
            self.context.state[self.prefix + name] = record


@lru_cache(maxsize=1)
def _host(words: str, node: NodeConfig) -> ClientApp:
    """The app that answers for every partition, built once per process."""
    settings = confined(_settings(words), node)
    return ClientAppFactory(settings, _federation(settings, node))(resolve_devices(settings.device)[0])


def _federation(settings: Settings, node: NodeConfig) -> Federation:
    settings = confined(settings, node)
    return own_federation(settings, node) if settings.dataset["name"] == DEVICES else build_federation(settings)


@lru_cache(maxsize=1)
def _settings(words: str) -> Settings:
    return Settings.from_config(compose(shlex.split(words)))
