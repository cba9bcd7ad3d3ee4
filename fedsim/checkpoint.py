"""What ``resume=`` goes on from: the server's arrays, the strategy's state and every client's, in one atomic file.

Generators need no place in it: each is derived from (seed, round, client, purpose).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import safe_open
from safetensors.torch import save_file

from fedsim.arrays import to_record, to_tensors
from fedsim.files import write_atomically

KINDS: dict[str, type[ConfigRecord] | type[MetricRecord]] = {"config": ConfigRecord, "metrics": MetricRecord}


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
    tensors: dict[str, torch.Tensor] = {}
    stored: set[int] = set()
    records: list[dict[str, Any]] = []
    for owner, state in owners.items():
        for name, record in state.items():
            if isinstance(record, ArrayRecord):
                # An array record may be empty, so it is listed as well as stored.
                records.append({"owner": owner, "name": name, "kind": "arrays"})
                for key, tensor in to_tensors(record).items():
                    tensor = tensor.cpu().contiguous()
                    # The file format refuses tensors that share memory, as a record and its copy do.
                    shared = tensor.data_ptr() in stored
                    tensors[json.dumps((owner, name, key))] = tensor.clone() if shared else tensor
                    stored.add(tensor.data_ptr())
            else:
                kind = "config" if isinstance(record, ConfigRecord) else "metrics"
                records.append({"owner": owner, "name": name, "kind": kind, "values": _to_json(record)})
    metadata = {
        "round": str(checkpoint.round),
        "records": json.dumps(records),
        "clients": json.dumps(list(checkpoint.clients)),
    }
    path = folder / f"round_{checkpoint.round:05d}.safetensors"
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))
    for older in folder.glob("round_*.safetensors"):
        if older != path:
            older.unlink()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run, or ``None`` if it was stopped before its first."""
    paths = sorted(folder.glob("round_*.safetensors"))
    if not paths:
        return None
    with safe_open(paths[-1], framework="pt") as file:
        metadata = file.metadata()
        entries: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        for key in file.keys():  # noqa: SIM118  # not a mapping
            owner, name, entry = json.loads(key)
            entries.setdefault((owner, name), {})[entry] = file.get_tensor(key)
    states: dict[str, RecordDict] = {}
    for record in json.loads(metadata["records"]):
        owner, name = record["owner"], record["name"]
        state = states.setdefault(owner, RecordDict())
        if record["kind"] == "arrays":
            state[name] = to_record(entries.get((owner, name), {}))
        else:
            state[name] = KINDS[record["kind"]](_from_json(record["values"]))
    arrays = states["server"]["arrays"]
    assert isinstance(arrays, ArrayRecord)
    return Checkpoint(
        round=int(metadata["round"]),
        arrays=arrays,
        strategy=states.get("strategy", RecordDict()),
        clients={client: states.get(str(client), RecordDict()) for client in json.loads(metadata["clients"])},
    )


def _to_json(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no bytes: they become ``{"hex": ...}``, also inside lists."""
    return {
        key: [_hex(each) for each in value] if isinstance(value, list) else _hex(value) for key, value in record.items()
    }


def _from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: [_unhex(each) for each in value] if isinstance(value, list) else _unhex(value)
        for key, value in values.items()
    }


def _hex(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _unhex(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
