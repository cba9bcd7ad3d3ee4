"""Checkpoints for ``resume=``: the server's arrays, the strategy's state and every client state, in one atomic file.

A checkpoint holds no random generators: each is derived from (seed, round, client, purpose).
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fedsim.core.errors import UserError
from fedsim.core.files import make_folder, reading, writing
from fedsim.messages.schema import ENTRIES
from fedsim.methods.client_state import with_namespaces
from fedsim.output.record_files import load_records, save_records

log = logging.getLogger(__name__)

FILES = "round_*.safetensors"
_OLD = {"given": ENTRIES}
"""Names of strategies' records in the checkpoints of older versions."""


@dataclass(frozen=True)
class Checkpoint:
    round: int
    arrays: ArrayRecord
    strategy: RecordDict
    clients: dict[int, RecordDict]
    tables: Mapping[str, int] = field(default_factory=dict)
    """How many rows the run's tables had; empty in checkpoints of versions that did not store it"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The run's ``kept_settings``; likewise"""


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = 1) -> None:
    """Write ``round_NNNNN.safetensors``, and then remove all but the ``keep`` newest.

    Raises:
        FileError: If it cannot be written; the older ones still exist then.
    """
    if not folder.is_dir():
        make_folder(folder)
    owners = {
        "server": RecordDict({"arrays": checkpoint.arrays}),
        "strategy": checkpoint.strategy,
        **{str(client): state for client, state in checkpoint.clients.items()},
    }
    path = folder / _name(checkpoint.round)
    metadata = {
        "round": str(checkpoint.round),
        "clients": json.dumps(list(checkpoint.clients)),
        "tables": json.dumps(dict(checkpoint.tables)),
        "settings": json.dumps(dict(checkpoint.settings)),
    }
    save_records(path, owners, metadata)
    remove_others(folder, checkpoint.round, keep)


def remove_others(folder: Path, round: int, keep: int) -> None:
    """Remove all checkpoints but the ``keep`` newest up to a round.

    Those of later rounds were damaged, so that the run has gone back behind them.

    Raises:
        FileError: If one cannot be removed.
    """
    with writing(folder):
        there = sorted(folder.glob(FILES))
        kept = [path for path in there if path.name <= _name(round)][-keep:]
        for other in {*there} - {*kept}:
            other.unlink()


def _name(round: int) -> str:
    return f"round_{round:05d}.safetensors"


def checkpoint_file(folder: Path, checkpoint: Checkpoint) -> Path:
    """Return the file that a checkpoint is read from."""
    return folder / _name(checkpoint.round)


def has_checkpoint(folder: Path) -> bool:
    """Return whether there is a checkpoint from which to resume."""
    return any(folder.glob(FILES))


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint of a run, or ``None`` if the run was stopped before its first.

    If it is damaged, the one before it is returned, with a warning.

    Raises:
        UserError: If none can be read; it is about the newest.
    """
    with reading(folder):
        paths = sorted(folder.glob(FILES), reverse=True)
    damaged: list[UserError] = []
    for path in paths:
        try:
            checkpoint = _load(path)
        except UserError as error:
            damaged.append(error)
            continue
        for each in damaged:
            log.warning("%s The run goes on from the checkpoint of round %d.", each, checkpoint.round)
        return checkpoint
    if damaged:
        raise UserError(
            f"{str(damaged[0]).removesuffix('.')}: put it back whole, or remove {folder} to begin this run anew."
        ) from damaged[0]
    return None


def _load(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        UserError: If it is damaged or may not be read.
    """
    with reading(path):
        states, metadata = load_records(path)
        arrays = states["server"]["arrays"]
        if not isinstance(arrays, ArrayRecord):
            raise ValueError("it is no checkpoint")
        if path.name != _name(int(metadata["round"])):
            raise ValueError(f"it is the checkpoint of round {metadata['round']}")
        return Checkpoint(
            round=int(metadata["round"]),
            arrays=arrays,
            strategy=RecordDict(
                {_OLD.get(name, name): record for name, record in states.get("strategy", RecordDict()).items()}
            ),
            clients={
                client: with_namespaces(states.get(str(client), RecordDict()))
                for client in json.loads(metadata["clients"])
            },
            tables=json.loads(metadata.get("tables", "{}")),
            settings=json.loads(metadata.get("settings", "{}")),
        )
