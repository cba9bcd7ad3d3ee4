"""The beginning of a run on nodes: waits for the nodes that are to take part, and logs which ones are missing."""

import logging
import time
from collections.abc import Sequence

from fedsim.core.errors import FedsimError
from fedsim.deployment.node_registry import NodeRegistry
from fedsim.deployment.reminder import Reminder

log = logging.getLogger(__name__)

POLL = 0.2
FIRST_WORD = 15.0
"""Seconds until the log first says which clients are missing."""
SETTLED = 10.0
"""Where the set of clients is open: seconds without a node that joins or leaves, before the run begins.

Devices that are started together join at about the same time.
"""
SHOWN_CLIENTS = 10


def await_nodes(roll: NodeRegistry, join_timeout: float | None) -> None:
    """Wait until every client has a node, or for ``join_timeout`` seconds; without a limit if it is ``None``.

    While the set of clients is open, it consists of those of the nodes that are online: all of these have to report
    which client they host, and the numbers must have no gap.

    Raises:
        FedsimError: If by then no client has a node, or the numbers of an open set have a gap.
    """
    start = settled = time.monotonic()
    reminder = Reminder(FIRST_WORD)
    present: set[int] = set()
    while True:
        roll.refresh()
        now = time.monotonic()
        if roll.present != present:
            present, settled = roll.present, now
        if roll.open:
            if roll.partitions and not roll.missing and not roll.strangers and now - settled >= SETTLED:
                break
        elif not roll.missing:
            return
        waited = now - start
        if join_timeout is not None and waited > join_timeout:
            break
        if reminder.due(waited):
            log.warning("%s", _waiting(roll, waited, join_timeout))
        time.sleep(POLL)
    _begin(roll, join_timeout)


def _begin(roll: NodeRegistry, join_timeout: float | None) -> None:
    """Log which clients are missing, and let the run begin with the others if possible.

    Raises:
        FedsimError: If no client has a node, or the numbers of an open set have a gap.
    """
    missing, played = roll.missing, [each for each in roll.partitions if roll.node_of(each) is not None]
    longer = "start the devices, or choose a longer join_timeout, or join_timeout=null for as long as it takes."
    within = f"within join_timeout={join_timeout} seconds"
    if not played:
        done = "said which client it plays" if roll.present else "connected"
        raise FedsimError(_sentence(f"no node of this federation has {done} {within}", roll.strangers, longer))
    if not roll.open:
        text = f"no node plays the {named(missing)} after join_timeout={join_timeout} seconds; they may still join"
        log.warning("%s", "; ".join([text, *roll.strangers]))
        return
    if missing:
        gap = f"there is a device with partition-id={played[-1]}, but none has joined {within} as {named(missing)}"
        raise FedsimError(_sentence(gap, roll.strangers, longer))
    roll.close()
    text = f"{len(played)} {'devices take' if len(played) > 1 else 'device takes'} part, all that have joined"
    log.warning("%s", "; ".join([text, *roll.strangers]))


def named(clients: Sequence[int]) -> str:
    """Return ``client 3``, ``clients 0, 1``, or the first few of many."""
    shown = ", ".join(map(str, clients[:SHOWN_CLIENTS]))
    more = f" and {len(clients) - SHOWN_CLIENTS} more" if len(clients) > SHOWN_CLIENTS else ""
    return f"client{'s' if len(clients) > 1 else ''} {shown}{more}"


def _waiting(roll: NodeRegistry, waited: float, join_timeout: float | None) -> str:
    limit = "" if join_timeout is None else f" of join_timeout={join_timeout}"
    text = f"waiting for {waited:.0f}{limit} seconds"
    missing = roll.missing
    if missing:
        text += f" for {named(missing)}"
    elif not roll.partitions:
        text += " for devices to join"
    return "; ".join([text, *(roll.strangers or (["no other node is online"] if missing else []))])


def _sentence(text: str, strangers: Sequence[str], advice: str) -> str:
    return f"{'; '.join([text, *strangers])}: {advice}"
