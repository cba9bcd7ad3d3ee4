"""ClientApps that worker processes of the tests run; they must be importable there by name."""

import os
import signal
import time
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of, config_of


def counting_app(device: torch.device) -> ClientApp:
    """Adds the client's id to what it receives and counts its own calls in its state.

    ``config`` can ask a client to raise, or to kill its worker (every time, or once per file).
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        config = message.content.config_records.get("config", ConfigRecord())
        calls = int(context.state.get("calls", MetricRecord({"n": 0}))["n"]) + 1
        context.state["calls"] = MetricRecord({"n": calls})
        if config.get("raise") == client:
            raise ValueError(f"client {client} was told to raise")
        if config.get("kill") == client:
            os.kill(os.getpid(), signal.SIGKILL)
        once = Path(str(config.get("kill_once", "")), str(client))
        if "kill_once" in config and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        received = to_tensors(arrays_of(message))
        context.state["last"] = to_record({name: tensor + client for name, tensor in received.items()})
        arrays = to_record({name: tensor + client for name, tensor in received.items()})
        metrics = MetricRecord({"client": client, "calls": calls, "pid": os.getpid()})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def broken_app(device: torch.device) -> ClientApp:
    raise RuntimeError("the app cannot be built")


def dying_app(device: torch.device) -> ClientApp:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def dies_once_app(folder: Path, device: torch.device) -> ClientApp:
    """Kills the first worker that builds it; a file in the folder says that it has."""
    died = folder / "died"
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return counting_app(device)


def changing_app(device: torch.device) -> ClientApp:
    """Replies with the learning rate in its message, which it halves and to which it adds a record."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config, records = config_of(message), len(message.content)
        told = float(str(config["lr"]))
        config["lr"] = told / 2
        message.content["more"] = ConfigRecord()
        metrics = MetricRecord({"lr": told, "records": records})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def first_breaks_app(folder: Path, device: torch.device) -> ClientApp:
    """Raises in the first process that builds it, when the others have begun to, which take a minute."""
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        (folder / str(os.getpid())).touch()
        time.sleep(60)
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    raise RuntimeError("the app cannot be built")
