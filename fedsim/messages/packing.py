"""One array for each record on the way to a device and back.

Flower sends every array as objects of its own, each in a request of its own: a model of 20 arrays takes some 40
requests a message, which is what a SuperLink with many devices spends its time on. The array of a packed record has the
others in it, in safetensors' format, which is read without running code.
"""

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedsim.messages.arrays import to_record

PACKED = "safetensors"
"""The name, and in Flower's terms the ``stype``, of the only array of a packed record"""
Contents = tuple[tuple[str, int], ...]


class Packer:
    """Packs messages; those that share arrays, as the messages of one cohort do, share what is packed."""

    def __init__(self) -> None:
        self._packed: dict[Contents, ArrayRecord] = {}

    def __call__(self, content: RecordDict) -> RecordDict:
        """Return the records, of which those with arrays are packed."""
        packed = content.copy()
        for name, record in content.items():  # Flower's ``array_records`` would keep the content until much later
            if isinstance(record, ArrayRecord) and record:
                packed[name] = self._pack(record)
        return packed

    def _pack(self, record: ArrayRecord) -> ArrayRecord:
        key = tuple((name, id(array)) for name, array in record.items())
        if key not in self._packed:
            self._packed[key] = _packed(record)
        return self._packed[key]


def unpacked(content: RecordDict) -> RecordDict:
    """Return the records as they were before they were packed; those that are not packed stay as they are.

    Raises:
        ValueError: If a packed record cannot be read.
    """
    opened = content.copy()
    for name, record in content.items():
        if isinstance(record, ArrayRecord) and record.keys() == {PACKED} and record[PACKED].stype == PACKED:
            opened[name] = _unpacked(record[PACKED].data)
    return opened


def _packed(record: Mapping[str, Array]) -> ArrayRecord:
    # The numbers keep the order, which the format does not; it takes the memory of an array as it lies there.
    arrays = {f"{place} {name}": array.numpy() for place, (name, array) in enumerate(record.items())}
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    packed = ArrayRecord()
    packed[PACKED] = Array(dtype="uint8", shape=(len(data),), stype=PACKED, data=data)
    return packed


def _unpacked(data: bytes) -> ArrayRecord:
    try:
        arrays = {name.partition(" "): array for name, array in load(data).items()}
        ordered = sorted(arrays.items(), key=lambda item: int(item[0][0]))
        return to_record({name: torch.from_numpy(array.copy()) for (_, _, name), array in ordered})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no packed arrays: {error}") from error
