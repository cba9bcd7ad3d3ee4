"""One message handled by a ``ClientApp``, in whatever process: threads fixed, exceptions turned into error replies."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

CLIENT_RAISED = 2
"""Flower's ``ErrorCode.CLIENT_APP_RAISED_EXCEPTION``."""


def handle(app: ClientApp, message: Message, context: Context) -> tuple[Message, RecordDict]:
    """The app's reply and the client's new state.

    If the app raises, the reply is an error whose reason is the exception's last line followed by its traceback, and
    the state is what it was before.
    """
    trial = copy(context)
    trial.state = context.state.copy()
    try:
        return app(message, trial), trial.state
    except Exception as error:
        summary = traceback.format_exception_only(error)[-1].strip()
        reply = Message(Error(CLIENT_RAISED, f"{summary}\n{traceback.format_exc()}"), reply_to=message)
        return reply, context.state


@contextmanager
def one_thread() -> Iterator[None]:
    """For sums in the server's process that must not depend on the engine; also a decorator."""
    before = fix_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fix_threads() -> int:
    """One thread per client, since the order in which threads add up would show in the last bits; returns what was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before
