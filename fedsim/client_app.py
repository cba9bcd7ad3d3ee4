"""The Flower ClientApp: the same client code on SuperNodes, simulated by Flower or real.

A node may host several partitions of the federation (see ``fedsim/engines/flower.py``); their states are kept apart.
"""

import shlex
from functools import lru_cache

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from datasets.build import build_federation
from fedsim.client_host import ClientAppFactory
from fedsim.config import compose
from fedsim.engines.flower import PARTITION
from fedsim.engines.handle import fix_threads
from fedsim.hardware import resolve_devices
from fedsim.messages import config_of
from fedsim.settings import Settings

app = ClientApp()


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
    partition = int(str(config_of(message)[PARTITION]))
    prefix = f"{partition}/"
    mine = [name for name in context.state if name.startswith(prefix)]
    state = RecordDict({name.removeprefix(prefix): context.state[name] for name in mine})
    guest = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config={**context.node_config, "partition-id": partition},
        state=state,
        run_config=context.run_config,
    )
    reply = _host(str(context.run_config["overrides"]))(message, guest)
    for name, record in guest.state.items():
        context.state[prefix + name] = record
    return reply


@lru_cache(maxsize=1)
def _host(overrides: str) -> ClientApp:
    """The app that answers for every partition, built once per process."""
    settings = Settings.from_config(compose(shlex.split(overrides)))
    federation = build_federation(settings)
    return ClientAppFactory(settings, federation)(resolve_devices(settings.device)[0])
