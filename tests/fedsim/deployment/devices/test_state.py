"""What a device keeps on its disk: back as it was, refused where it is damaged or another's, and not for ever."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from fedsim.core.errors import UserError
from fedsim.deployment.devices.state import StateDir
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import CACHED, ENTRIES
from fedsim.methods.client_state import PERSONAL, TRAINED

STATE = RecordDict(
    {
        PERSONAL: to_record({"bn.weight": torch.tensor([1.0, -0.0, float("nan")]), "bn.seen": torch.tensor(7)}),
        TRAINED: ConfigRecord({"server-round": 4}),
        f"{CACHED}{ENTRIES}": to_record({}),
    }
)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    StateDir(tmp_path / "new", 12, "strategy=fedbn").save(3, STATE)
    state = StateDir(tmp_path / "new", 12, "strategy=fedbn").load(3)
    assert list(state) == [PERSONAL, TRAINED, f"{CACHED}{ENTRIES}"]
    assert state[TRAINED] == ConfigRecord({"server-round": 4})
    kept = to_tensors(state.array_records[PERSONAL])
    assert kept["bn.weight"].numpy().tobytes() == torch.tensor([1.0, -0.0, float("nan")]).numpy().tobytes()
    assert kept["bn.seen"] == 7


def test_before_the_first_training_there_is_nothing(tmp_path: Path) -> None:
    StateDir(tmp_path, 12, "strategy=fedbn").save(3, STATE)
    assert not StateDir(tmp_path, 12, "strategy=fedbn").load(2)
    assert not StateDir(tmp_path, 13, "strategy=fedbn").load(3)


def test_half_a_file_never_stands_in_its_place(tmp_path: Path) -> None:
    """A kill while a new one is written leaves the old one, and the half is no state."""
    store = StateDir(tmp_path, 12, "s")
    store.save(3, STATE)
    (path,) = tmp_path.rglob("partition-3.safetensors")
    (path.parent / f".{path.name}.new").write_bytes(path.read_bytes()[:50])
    assert list(store.load(3)) == list(STATE)
    store.save(3, STATE)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("harm", ["cut", "empty", "bytes", "other partition", "other run", "other settings"])
def test_a_damaged_or_foreign_file_is_refused_unless_told_otherwise(tmp_path: Path, harm: str) -> None:
    store = StateDir(tmp_path, 12, "strategy=fedbn")
    store.save(3, STATE)
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    if harm in ("cut", "empty", "bytes"):
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "bytes": b"x" * 400}[harm])
    else:
        run, partition = 13 if harm == "other run" else 12, 2 if harm == "other partition" else 3
        words = "strategy=fedwon" if harm == "other settings" else "strategy=fedbn"
        shutil.rmtree(tmp_path)
        StateDir(tmp_path, run, words).save(partition, STATE)
        (other,) = tmp_path.rglob("*.safetensors")
        path.parent.mkdir(exist_ok=True)
        other.replace(path)
    with pytest.raises(UserError, match=r"start the node with state-afresh=true") as caught:
        store.load(3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.exists()  # nothing is thrown away unasked
    afresh = StateDir(tmp_path, 12, "strategy=fedbn", afresh=True)
    assert not afresh.load(3)
    afresh.save(3, STATE)
    assert list(store.load(3)) == list(STATE)


@pytest.mark.parametrize("harm", ["loop", "dangling", "folder", "pipe"])
def test_a_link_that_leads_to_nothing_is_no_client_before_its_first_training(tmp_path: Path, harm: str) -> None:
    store = StateDir(tmp_path, 12, "s")
    store.save(3, STATE)
    (path,) = tmp_path.rglob("*.safetensors")
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if harm == "loop" else "nothing")
    with pytest.raises(UserError, match=rf"^{path} cannot be read \(.*start the node with state-afresh=true"):
        store.load(3)


def test_old_runs_are_forgotten_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "run-of-mine").write_text("not a folder of states")
    (tmp_path / "notes.txt").write_text("kept")
    for run in range(1, 6):
        StateDir(tmp_path, run, "s", keep_runs=3).save(0, STATE)
        os.utime(tmp_path / f"run-{run}", ns=(run * 10**9, run * 10**9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run-3", "run-4", "run-5", "run-of-mine"]


def test_a_folder_that_cannot_be_written_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"state-dir=.*file cannot be written"):
        StateDir(tmp_path / "file", 1, "s").save(0, STATE)


def test_a_round_whose_reply_was_lost_is_trained_again_from_where_it_began(tmp_path: Path) -> None:
    store = StateDir(tmp_path, 12, "s")
    first = RecordDict({TRAINED: ConfigRecord({"server-round": 1})})
    second = RecordDict({TRAINED: ConfigRecord({"server-round": 2})})
    store.save(3, first, 1, RecordDict())
    store.save(3, second, 2, first)
    assert store.load(3)[TRAINED] == second[TRAINED]  # to be evaluated
    assert store.load(3, training=3)[TRAINED] == second[TRAINED]
    assert store.load(3, training=2)[TRAINED] == first[TRAINED]
