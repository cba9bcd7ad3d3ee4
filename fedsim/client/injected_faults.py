"""The faults that happen inside a client's program: it raises an error, or uses up its memory."""

import multiprocessing
import os
import signal

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedsim.core.errors import FedsimError
from fedsim.engines.faults import CRASH, EXHAUST, Faults
from fedsim.messages.schema import ROUND, TRAIN, config_of


class InjectedCrash(FedsimError):
    """The error of a client that ``faults.crash`` has chosen."""


def injecting(faults: Faults) -> Mod:
    """Return the modifier of a ``ClientApp`` that lets the chosen clients fail before they train."""

    def modify(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type == TRAIN:
            round, client = int(str(config_of(message)[ROUND])), int(context.node_config["partition-id"])
            fault = faults.drawn(round, client)
            if fault == CRASH:
                raise InjectedCrash("faults.crash has chosen this client")
            if fault == EXHAUST:
                _exhaust()
        return call_next(message, context)

    return modify


def _exhaust() -> None:
    """End the worker as the kernel ends a process when memory is used up; raise an error where it is the only process.

    Memory is not really used up, since that would hit other programs of the machine.
    """
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    raise MemoryError("faults.exhaust has chosen this client")
