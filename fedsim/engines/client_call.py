"""One message handled by a ``ClientApp``, in whatever process: exceptions become error replies."""

import traceback
from copy import copy

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.core.errors import FedsimError

CLIENT_RAISED = 2
"""Flower's ``ErrorCode.CLIENT_APP_RAISED_EXCEPTION``."""


def call_client(app: ClientApp, message: Message, context: Context) -> tuple[Message, RecordDict]:
    """Return the app's reply and the client's new state.

    If the app raises, the reply is an error whose reason is the exception's last line followed by its traceback, or
    the sentence of a ``FedsimError`` alone, and the state is what it was before.
    """
    trial = copy(context)
    trial.state = context.state.copy()
    try:
        return app(message, trial), trial.state
    except FedsimError as error:  # a sentence that needs no traceback
        return Message(Error(CLIENT_RAISED, " ".join(str(error).split())), reply_to=message), context.state
    except Exception as error:
        summary = traceback.format_exception_only(error)[-1].strip()
        reply = Message(Error(CLIENT_RAISED, f"{summary}\n{traceback.format_exc()}"), reply_to=message)
        return reply, context.state
