"""The client state between messages: Flower's ``Context.state``, with a namespace for each owner.

* ``simulator/``: the personal part of the model, the round in which it was last trained, and residuals of compression;
* ``cached/``: the cached broadcasts (``fedsim/methods/cached_broadcast.py``);
* ``method/``: the records of the method.
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
"""The round in which the personal part was last trained."""
_OLD = {
    "personal": PERSONAL,
    "trained": TRAINED,
    "residual": RESIDUAL,
    "given": f"{CACHED}{ENTRIES}",
    "masks": f"{CACHED}masks",
}
"""Names of records in old checkpoints, from before there were namespaces."""


class Namespace(MutableMapping[str, Record]):
    """A view of the records of a state whose names begin with a prefix, under their names without it."""

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
        """The personal part after its last training; empty before the first one."""
        return self._tensors(PERSONAL)

    @property
    def trained(self) -> int:
        """The round in which the personal part was last trained; 0 for never."""
        record = self.records.get(TRAINED, ConfigRecord())
        assert isinstance(record, ConfigRecord)
        return int(str(record.get(ROUND, 0)))

    def keep(self, personal: Mapping[str, torch.Tensor], round: int) -> None:
        """Store the personal part, trained in ``round``."""
        self.records[PERSONAL] = to_record(personal)
        self.records[TRAINED] = ConfigRecord({ROUND: round})

    @property
    def fixed_entries(self) -> dict[str, torch.Tensor]:
        """The entries of the model that were sent as a cached broadcast."""
        return self._tensors(f"{CACHED}{ENTRIES}")

    def cached(self, sent: RecordDict) -> dict[str, ArrayRecord]:
        """Return the cached records by name without prefix: those of the message ``sent``, else those of the state."""
        records = {**_cached_in(self.records), **_cached_in(sent)}
        return {name.removeprefix(CACHED): record for name, record in records.items()}

    def cache(self, sent: RecordDict) -> bool:
        """Store the cached records of a message; return whether any of them differs from the stored one."""
        changed = False
        for name, record in _cached_in(sent).items():
            changed = changed or not _equal(self.records.get(name), record)
            self.records[name] = record
        return changed

    def _tensors(self, name: str) -> dict[str, torch.Tensor]:
        record = self.records.get(name, ArrayRecord())
        assert isinstance(record, ArrayRecord)
        return to_tensors(record)


def _cached_in(records: RecordDict) -> dict[str, ArrayRecord]:
    return {
        name: record for name, record in records.items() if isinstance(record, ArrayRecord) and name.startswith(CACHED)
    }


def with_namespaces(state: RecordDict) -> RecordDict:
    """Return a state under current names, converting that of an old checkpoint."""
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
