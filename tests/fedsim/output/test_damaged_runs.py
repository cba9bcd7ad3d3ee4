"""A run directory of which a file is missing, cut off, or of other bytes: one sentence names it, or it is mended."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.config.settings import settings_of
from fedsim.core.errors import FileError, UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.output.checkpoint import load_checkpoint, save_checkpoint
from fedsim.output.progress import Reporter
from fedsim.output.record_files import load_records
from fedsim.output.results import NEEDED, read_summary
from fedsim.report.command import main as report
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import FullDisk, small_settings

CHECKPOINT = "checkpoints/round_00001.safetensors"
SMALL = ("engine=inline", "rounds=1", "strategy=fedbn", "dataset.train_per_domain=20", "checkpoint_keep=1")
Harm = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    run(prepare(small_settings(*SMALL)), run_dir, Reporter())
    return run_dir


@pytest.fixture
def run_dir(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def resume(run_dir: Path) -> None:
    run(prepare(settings_of({"resume": str(run_dir)})), run_dir, Reporter())


def missing(file: Path) -> None:
    file.unlink()


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def almost(file: Path) -> None:
    """A line is missing, and not the last letter is wrong."""
    file.write_bytes(file.read_bytes().rstrip().rpartition(b"\n")[0] + b"\n")


def other_bytes(file: Path) -> None:
    file.write_bytes(b"\xff\x00\xfe" * 1000)


def word_for_a_number(file: Path) -> None:
    """Of a round."""
    text = file.read_text()
    file.write_text(
        text.replace("\n1,", "\none,") if file.suffix == ".csv" else text.replace('"round": 1', '"round": "one"')
    )


def column_of_another_name(file: Path) -> None:
    """The last one that is needed."""
    head, _, rest = file.read_text().partition("\n")
    file.write_text(head.replace(NEEDED[file.name][-1], "x", 1) + "\n" + rest)


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


HARMS = (missing, half, other_bytes, loop, folder, pipe)
TABLES = ("clients.csv", "rounds.csv", "classes.csv")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *[(name, harm) for name in TABLES for harm in (*HARMS, almost, column_of_another_name)],
        *[(name, harm) for name in ("config.yaml", "provenance.json", CHECKPOINT) for harm in HARMS[1:]],
    ],
)
def test_a_run_is_not_resumed_from_a_damaged_file_and_the_others_stay(run_dir: Path, name: str, harm: Harm) -> None:
    harm(run_dir / name)
    before = {file: (run_dir / file).read_bytes() for file in (*TABLES, "summary.json") if (run_dir / file).is_file()}
    with pytest.raises(UserError, match=f"^{run_dir / name} ") as caught:
        resume(run_dir)
    assert "\n" not in str(caught.value)
    assert {file: (run_dir / file).read_bytes() for file in before} == before


@pytest.mark.parametrize(
    "name", ["summary.json", "model.safetensors", "clients/0.safetensors", "report.html", CHECKPOINT]
)
def test_a_folder_where_a_file_will_be_written_is_named_before_anything_runs(tmp_path: Path, name: str) -> None:
    run_dir = tmp_path / "run"
    run(prepare(small_settings(*SMALL, "checkpoint_keep=2")), run_dir, Reporter())
    folder(run_dir / name)
    before = (run_dir / "clients.csv").read_bytes()
    sentence = rf"^{run_dir / name} is a folder, where the run writes a file: remove it\.$"
    with pytest.raises(UserError, match=sentence):
        resume(run_dir)
    assert (run_dir / "clients.csv").read_bytes() == before
    (run_dir / name).rmdir()
    (run_dir / "plots").write_text("")
    with pytest.raises(
        UserError, match=rf"^{run_dir / 'plots'} is no folder, where the run writes files: remove it\.$"
    ):
        resume(run_dir)


def test_a_run_goes_on_from_the_checkpoint_before_the_damaged_one(tmp_path: Path, whole: Path) -> None:
    run_dir = tmp_path / "run"
    run(prepare(small_settings(*SMALL, "checkpoint_keep=2")), run_dir, Reporter())
    half(run_dir / CHECKPOINT)
    (run_dir / "model.safetensors").unlink()
    resume(run_dir)
    for name in ("clients.csv", "classes.csv", "model.safetensors"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes()
    assert load_records(run_dir / CHECKPOINT) == load_records(whole / CHECKPOINT)


def test_a_configuration_of_which_the_end_is_missing_says_what_it_lacks(run_dir: Path) -> None:
    file = run_dir / "config.yaml"
    file.write_text(file.read_text().partition("\nrounds:")[0] + "\n")
    with pytest.raises(UserError, match=rf"^{file} was cut off or is of another version \(batch_size is missing from"):
        resume(run_dir)


def test_the_checkpoint_of_another_round_is_refused(run_dir: Path) -> None:
    path = run_dir / CHECKPOINT
    other = path.with_name("round_00000.safetensors")
    path.replace(other)
    with pytest.raises(UserError, match=rf"^{other} cannot be read \(it is the checkpoint of round 1\)"):
        resume(run_dir)


def test_the_checkpoint_of_another_network_is_refused_and_the_tables_stay(run_dir: Path) -> None:
    folder = run_dir / "checkpoints"
    checkpoint = load_checkpoint(folder)
    assert checkpoint is not None
    narrow = to_record({name: tensor[:1] for name, tensor in to_tensors(checkpoint.arrays).items()})
    save_checkpoint(folder, replace(checkpoint, arrays=narrow))
    before = {file: (run_dir / file).read_bytes() for file in TABLES}
    with pytest.raises(UserError, match=rf"^{run_dir / CHECKPOINT} holds another network than this run's: put back"):
        resume(run_dir)
    assert {file: (run_dir / file).read_bytes() for file in before} == before


@pytest.mark.parametrize("harm", [missing, half, other_bytes, loop])
def test_a_damaged_summary_is_written_anew(run_dir: Path, whole: Path, harm: Harm) -> None:
    harm(run_dir / "summary.json")
    resume(run_dir)
    mended, before = (read_summary(each / "summary.json") for each in (run_dir, whole))
    assert {**mended, "peak_memory_mb": 0} == {**before, "peak_memory_mb": 0}


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *[("clients.csv", harm) for harm in (missing, half, other_bytes, loop, folder)],
        ("rounds.csv", half),
        ("rounds.csv", word_for_a_number),
        *[("summary.json", harm) for harm in (half, other_bytes, loop, word_for_a_number)],
        ("rounds.csv", missing),
        ("classes.csv", loop),
        ("config.yaml", half),
    ],
)
def test_a_damaged_run_is_not_compared(
    run_dir: Path, whole: Path, name: str, harm: Harm, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(run_dir / name)
    assert report([str(whole), str(run_dir), "--out", str(run_dir / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {run_dir / name} cannot be read (")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["config.yaml", "summary.json"])
def test_of_two_runs_nothing_is_said_if_one_is_damaged(
    run_dir: Path, whole: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loop(run_dir / name)
    assert report(["--compare", str(whole), str(run_dir)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {run_dir / name} cannot be read (")


def test_a_disk_that_fills_up_leaves_what_was_recorded(tmp_path: Path, full_disk: FullDisk) -> None:
    """No checkpoint fits, and all that has been said before it is there; with space the run goes on."""
    run_dir = tmp_path / "run"
    prepared = prepare(small_settings(*SMALL))
    with full_disk(100_000), pytest.raises(FileError) as caught:
        run(prepared, run_dir, Reporter())
    assert str(caught.value) == (
        f"{run_dir / 'checkpoints' / 'round_00000.safetensors'} cannot be written ({os.strerror(errno.EFBIG)})"
    )
    assert list((run_dir / "checkpoints").iterdir()) == []
    assert read_summary(run_dir / "summary.json")["final"]["round"] == 0
    resume(run_dir)
    assert read_summary(run_dir / "summary.json")["final"]["round"] == 1


@pytest.mark.parametrize("name", ["clients.csv", "checkpoints", "model.safetensors", "provenance.json", "report.html"])
def test_a_new_run_takes_nothing_that_lies_there_for_its_own(run_dir: Path, name: str) -> None:
    """A table of somebody else would be written over, and another run's checkpoint be gone on from."""
    other = run_dir.parent / "other"
    other.mkdir()
    shutil.move(run_dir / name, other / name)
    with pytest.raises(UserError, match=rf"^out_dir={other} already holds {name}, which a run would take for its own"):
        run(prepare(small_settings(*SMALL)), other, Reporter())
    assert [path.name for path in other.iterdir()] == [name]


def test_what_cannot_be_taken_back_does_not_hide_why_the_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.output.run_directory.OF_A_RUN", ())  # it has come after they were looked for
    (tmp_path / "provenance.json").mkdir()
    with pytest.raises(FileError, match=r"provenance\.json cannot be written"):
        run(prepare(small_settings(*SMALL)), tmp_path, Reporter())
