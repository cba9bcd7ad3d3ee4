"""What ``resume=`` goes on from: the server's arrays, the strategy's state and every client's, in one atomic file.

Generators need no place in it: each is derived from (seed, round, client, purpose).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ArrayRecord, RecordDict

from fedsim.record_files import load_records, save_records


@dataclass(frozen=True)
class Checkpoint:
    round: int
    arrays: ArrayRecord
    strategy: RecordDict
    clients: dict[int, RecordDict]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes ``round_NNNNN.safetensors`` and then removes the older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    owners = {
        "server": RecordDict({"arrays": checkpoint.arrays}),
        "strategy": checkpoint.strategy,
        **{str(client): state for client, state in checkpoint.clients.items()},
    }
    path = folder / f"round_{checkpoint.round:05d}.safetensors"
    metadata = {"round": str(checkpoint.round), "clients": json.dumps(list(checkpoint.clients))}
    save_records(path, owners, metadata)
    for older in folder.glob("round_*.safetensors"):
        if older != path:
            older.unlink()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run, or ``None`` if it was stopped before its first."""
    paths = sorted(folder.glob("round_*.safetensors"))
    if not paths:
        return None
    states, metadata = load_records(paths[-1])
    arrays = states["server"]["arrays"]
    assert isinstance(arrays, ArrayRecord)
    return Checkpoint(
        round=int(metadata["round"]),
        arrays=arrays,
        strategy=states.get("strategy", RecordDict()),
        clients={client: states.get(str(client), RecordDict()) for client in json.loads(metadata["clients"])},
    )
