"""One message handled by a ``ClientApp``, in whatever process: exceptions become error replies."""

import traceback
from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.aggregation.groups import GroupSum
from fedsim.core.errors import FedsimError
from fedsim.messages.errors import CLIENT_RAISED
from fedsim.messages.groups import ADD_UP, split_at_openings
from fedsim.messages.schema import CONFIG


class Call(NamedTuple):
    """What a worker is sent to handle a message."""

    message: Message
    """Without its content"""
    context: Context
    opens: bool
    """Whether the message is the first of its group (``fedsim/messages/groups.py``)"""


def call_client(app: ClientApp, message: Message, context: Context) -> tuple[Message, RecordDict]:
    """Return the app's reply and the client's new state.

    If the app raises, the reply is an error whose reason is the exception's last line followed by its traceback, or
    the sentence of a ``FedsimError`` alone, and the state is what it was before.

    The app has the message's dictionary of records and its configs for itself; arrays are shared. Many messages have
    one content, and what one client changes must not be what the next one in this process is told.
    """
    trial = copy(context)
    trial.state = context.state.copy()
    try:
        return app(with_own_records(message), trial), trial.state
    except Exception as error:
        return error_reply(message, error), context.state


def with_own_records(message: Message) -> Message:
    """Return the message with a dictionary of records and configs of its own; arrays are shared."""
    own, records = copy(message), message.content.items()
    own.content = RecordDict({name: each.copy() if isinstance(each, ConfigRecord) else each for name, each in records})
    return own


def call_clients(app: ClientApp, content: RecordDict, calls: Sequence[Call]) -> list[tuple[Message, RecordDict]]:
    """Return the reply and the new state of each client, one after the other; all messages have the same content.

    If the content allows it, the replies of a group, or of its beginning, are added up.
    """
    config = content.get(CONFIG)
    weighting = config.get(ADD_UP) if isinstance(config, ConfigRecord) else None
    answers = []
    for group in split_at_openings(calls, [call.opens for call in calls]):
        total = GroupSum(str(weighting)) if weighting is not None and group[0].opens and len(group) > 1 else None
        for message, context, _ in group:
            message.content = content
            reply, state = call_client(app, message, context)
            if total is not None and reply.has_content():
                total.take(reply)
            answers.append((reply, state))
        if total is not None:
            total.give()
    return answers


def error_reply(message: Message, error: Exception) -> Message:
    """Return the reply of a client whose app has raised an error."""
    if isinstance(error, FedsimError):  # a sentence that needs no traceback
        return Message(Error(CLIENT_RAISED, " ".join(str(error).split())), reply_to=message)
    summary, trace = traceback.format_exception_only(error)[-1].strip(), "".join(traceback.format_exception(error))
    return Message(Error(CLIENT_RAISED, f"{summary}\n{trace}"), reply_to=message)
