"""Flower's records in one file, written completely or not at all: the format of checkpoints and of devices' states."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import safe_open
from safetensors.torch import save_file

from fedsim.core.files import write_atomically
from fedsim.messages.arrays import to_record, to_tensors

KINDS: dict[str, type[ConfigRecord] | type[MetricRecord]] = {"config": ConfigRecord, "metrics": MetricRecord}
RECORDS, CHECKSUM = "records", "checksum"
DESCRIBED = "fedsim"
"""The only entry in the file's metadata: of several, safetensors writes now one first and now another."""


def save_records(path: Path, owners: Mapping[str, RecordDict], metadata: Mapping[str, str]) -> None:
    """Write the records of several owners and some metadata; tensors may be on any device.

    Raises:
        FileError: If the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    stored: set[int] = set()
    records: list[dict[str, Any]] = []
    for owner, state in owners.items():
        for name, record in state.items():
            if isinstance(record, ArrayRecord):
                # An array record may be empty, so it is listed as well as stored. The file has an order of its own, and
                # what is drawn for one entry after the other, such as noise, needs that of the record.
                records.append({"owner": owner, "name": name, "kind": "arrays", "order": list(record)})
                for key, tensor in to_tensors(record).items():
                    tensor = tensor.cpu().contiguous()
                    # The file format refuses tensors that share memory, as a record and its copy do.
                    shared = tensor.data_ptr() in stored
                    tensors[json.dumps((owner, name, key))] = tensor.clone() if shared else tensor
                    stored.add(tensor.data_ptr())
            else:
                kind = "config" if isinstance(record, ConfigRecord) else "metrics"
                records.append({"owner": owner, "name": name, "kind": kind, "values": _to_json(record)})
    described = {**metadata, RECORDS: json.dumps(records)}
    described[CHECKSUM] = _checksum(tensors, described)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, {DESCRIBED: json.dumps(described)}))


def load_records(path: Path) -> tuple[dict[str, RecordDict], dict[str, str]]:
    """Return the records by owner, of those owners that have any, and the metadata.

    For a file that is damaged or of another kind, it raises the exceptions that ``fedsim.core.files.reading`` converts
    into one sentence.
    """
    with safe_open(path, framework="pt") as file:
        metadata = _described(file.metadata() or {})
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    checksum = metadata.pop(CHECKSUM, None)  # files of older versions have none
    if checksum is not None and checksum != _checksum(tensors, metadata):
        raise ValueError("its checksum is that of another content")
    entries: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        owner, name, entry = json.loads(key)
        entries.setdefault((owner, name), {})[entry] = tensor
    states: dict[str, RecordDict] = {}
    for record in json.loads(metadata.pop(RECORDS)):
        owner, name = record["owner"], record["name"]
        state = states.setdefault(owner, RecordDict())
        if record["kind"] == "arrays":
            found = entries.get((owner, name), {})
            state[name] = to_record({key: found[key] for key in record.get("order", found)})
        else:
            state[name] = KINDS[record["kind"]](_from_json(record["values"]))
    return states, metadata


def _described(stored: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata, which files of older versions have in entries of their own."""
    if DESCRIBED not in stored:
        return dict(stored)
    described = json.loads(stored[DESCRIBED])
    if not isinstance(described, dict) or not all(isinstance(value, str) for value in described.values()):
        raise ValueError(f"its {DESCRIBED} is no mapping of texts")
    return described


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Return a digest of all bytes: safetensors notices a file that was cut off, but not one whose numbers changed."""
    digest = hashlib.blake2b(json.dumps(sorted(metadata.items())).encode(), digest_size=16)
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _to_json(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's values for JSON, which has no bytes: they become ``{"hex": ...}``, also inside lists."""
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
