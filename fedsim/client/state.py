"""What a client keeps from message to message: Flower's ``Context.state``, with a namespace for each owner.

* ``simulator/``: the personal part of the model, when it was last trained, what compression still has to send;
* ``cached/``: the records that the server has sent once (``fedsim/methods/cached_broadcast.py``);
* ``method/``: whatever the method keeps.
"""

from collections.abc import Iterator, Mapping, MutableMapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.compression import RESIDUAL
from fedsim.messages.schema import CACHED, ENTRIES, ROUND
from fedsim.methods.interfaces import Record

SIMULATOR, METHOD = "simulator/", "method/"
PERSONAL = f"{SIMULATOR}personal"
"""The personal part of the model."""
TRAINED = f"{SIMULATOR}trained"
"""In which round that part was last trained."""
_OLD = {
    "personal": PERSONAL,
    "trained": TRAINED,
    "residual": RESIDUAL,
    "given": f"{CACHED}{ENTRIES}",
    "masks": f"{CACHED}masks",
}
"""Names in the checkpoints of before there were namespaces."""


class Namespace(MutableMapping[str, Record]):
    """The records of a state whose names begin with a prefix, under the rest of their names."""

    def __init__(self, state: RecordDict, prefix: str) -> None:
        self._state = state
        self._prefix = prefix

    def __getitem__(self, name: str) -> Record:
        return self._state[self._prefix + name]

    def __setitem__(self, name: str, record: Record) -> None:
        self._state[self._prefix + name] = record

    def __delitem__(self, name: str) -> None:
        del self._state[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter([name.removeprefix(self._prefix) for name in self._state if name.startswith(self._prefix)])

    def __len__(self) -> int:
        return sum(1 for _ in self)


class ClientState:
    """Reads and writes one client's state."""

    def __init__(self, records: RecordDict) -> None:
        self.records = records
        self.method = Namespace(records, METHOD)

    @property
    def personal(self) -> dict[str, torch.Tensor]:
        """The personal part as it was last trained; empty before the first training."""
        return self._tensors(PERSONAL)

    @property
    def trained(self) -> int:
        """The round in which it was last trained; 0 for never."""
        record = self.records.get(TRAINED, ConfigRecord())
        assert isinstance(record, ConfigRecord)
        return int(str(record.get(ROUND, 0)))

    def keep(self, personal: Mapping[str, torch.Tensor], round: int) -> None:
        """Keep the personal part that was trained in this round."""
        self.records[PERSONAL] = to_record(personal)
        self.records[TRAINED] = ConfigRecord({ROUND: round})

    @property
    def fixed_entries(self) -> dict[str, torch.Tensor]:
        """The entries of the model that the server has sent once."""
        return self._tensors(f"{CACHED}{ENTRIES}")

    def cached(self, sent: RecordDict) -> dict[str, ArrayRecord]:
        """Return the cached records by their own names: those of a message, and those that are kept."""
        records = {**self.records.array_records, **sent.array_records}
        return {name.removeprefix(CACHED): record for name, record in records.items() if name.startswith(CACHED)}

    def cache(self, sent: RecordDict) -> bool:
        """Keep the cached records of a message; whether any of them differs from what was kept."""
        changed = False
        for name, record in sent.array_records.items():
            if name.startswith(CACHED):
                changed = changed or not _equal(self.records.get(name), record)
                self.records[name] = record
        return changed

    def _tensors(self, name: str) -> dict[str, torch.Tensor]:
        record = self.records.get(name, ArrayRecord())
        assert isinstance(record, ArrayRecord)
        return to_tensors(record)


def with_namespaces(state: RecordDict) -> RecordDict:
    """Return a state as it is named now, also that of an older checkpoint."""
    return RecordDict(
        {name if "/" in name else _OLD.get(name, f"{METHOD}{name}"): record for name, record in state.items()}
    )


def _equal(kept: Record | None, sent: ArrayRecord) -> bool:
    if not isinstance(kept, ArrayRecord):
        return False
    one, other = to_tensors(kept), to_tensors(sent)
    return one.keys() == other.keys() and all(
        torch.equal(one[name].to(other[name].device), other[name]) for name in one
    )
