"""A client's state: each owner has its names, and none sees those of another."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedsim.messages.arrays import to_record
from fedsim.messages.schema import ARRAYS
from fedsim.methods.client_state import PERSONAL, TRAINED, ClientState, with_namespaces


def record(value: float) -> ArrayRecord:
    return to_record({"weight": torch.tensor([value])})


def test_a_method_keeps_what_it_likes_under_any_name() -> None:
    state = ClientState(RecordDict())
    state.keep({"bn.weight": torch.ones(1)}, round=4)
    state.method["personal"] = record(2)
    state.method["a/b"] = ConfigRecord({"x": 1})
    assert state.records.keys() == {PERSONAL, TRAINED, "method/personal", "method/a/b"}
    assert dict(state.method) == {"personal": record(2), "a/b": ConfigRecord({"x": 1})}
    assert len(state.method) == 2
    assert state.method.pop("a/b") == ConfigRecord({"x": 1})
    assert "a/b" not in state.method
    assert state.personal["bn.weight"].tolist() == [1]
    assert state.trained == 4


def test_of_a_message_only_what_is_to_be_cached_is_kept() -> None:
    state = ClientState(RecordDict())
    sent = RecordDict({ARRAYS: record(1), "cached/masks": record(2), "control": record(3)})
    assert state.cached(sent) == {"masks": record(2)}
    assert not state.records
    assert state.cache(sent)
    assert state.records.keys() == {"cached/masks"}
    assert state.cached(RecordDict()) == {"masks": record(2)}
    assert not state.cache(sent)  # the same once more
    assert not state.cache(RecordDict({ARRAYS: record(1)}))
    assert state.cache(RecordDict({"cached/masks": record(5)}))
    assert state.cached(RecordDict()) == {"masks": record(5)}


def test_who_has_never_trained_has_nothing_of_its_own() -> None:
    state = ClientState(RecordDict())
    assert (state.personal, state.trained, state.fixed_entries, len(state.method)) == ({}, 0, {}, 0)


def test_names_of_now_stay_as_they_are() -> None:
    records = RecordDict({PERSONAL: record(1), "cached/masks": record(2), "method/candidate": record(3)})
    assert with_namespaces(records) == records
    assert with_namespaces(with_namespaces(RecordDict({"candidate": record(3)}))).keys() == {"method/candidate"}
