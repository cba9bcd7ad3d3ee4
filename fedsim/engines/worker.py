"""A worker process: builds its ``ClientApp`` once, then answers messages until the pipe closes."""

import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import torch
from flwr.app import RecordDict
from flwr.clientapp import ClientApp

from fedsim.core.errors import FedsimError
from fedsim.core.freed_memory import keep_freed_memory
from fedsim.core.memory import Memory
from fedsim.core.threads import fix_threads
from fedsim.engines.client_call import Call, call_clients
from fedsim.engines.shared_memory import Channel

READY = "ready"


def serve(connection: Connection, device: torch.device, parent: int) -> None:
    """Receive the app's factory, answer ``READY`` or what the factory raised, then serve messages."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    fix_threads()
    keep_freed_memory()
    channel = Channel(connection, parent)
    try:
        make_app: Callable[[torch.device], ClientApp]
        make_app, _ = channel.receive()
        app = make_app(device)
        told = READY
    except EOFError:
        return
    except FedsimError as error:
        told = str(error)
    except Exception:
        told = traceback.format_exc()
    with suppress(EOFError, ConnectionError):  # the parent has ended, with or without saying so
        connection.send(told)
        if told == READY:
            _answer(app, channel)


def _answer(app: ClientApp, channel: Channel) -> None:
    """Answer messages until the pipe closes.

    Raises:
        EOFError, ConnectionError: When it does.
    """
    content = RecordDict()
    received: RecordDict | list[Call]
    while True:
        received, number = channel.receive()
        if isinstance(received, RecordDict):  # the content of the messages that follow
            content = received
            continue
        channel.send((call_clients(app, content, received), Memory.now()), number)
