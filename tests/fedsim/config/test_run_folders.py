"""A folder for each run, and none for a run of which nothing is left."""

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from fedsim.config import run_folders
from fedsim.config.run_folders import run_folder
from fedsim.core.errors import UserError


class Noon(datetime):
    @classmethod
    def now(cls, tz: object = None) -> "Noon":
        return cls(2026, 3, 4, 12, 0, 0)


@pytest.fixture(autouse=True)
def _noon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folders, "datetime", Noon)


def test_runs_of_one_second_have_folders_of_their_own() -> None:
    with ExitStack() as stack:
        folders = [stack.enter_context(run_folder(None)) for _ in range(3)]
        sweep = stack.enter_context(run_folder(None, "multirun"))
        for folder in (*folders, sweep):
            (folder / "summary.json").touch()
    day = Path("outputs", "2026-03-04")
    assert folders == [day / "12-00-00", day / "12-00-00-2", day / "12-00-00-3"]
    assert sweep == Path("multirun", "2026-03-04", "12-00-00")
    assert all((folder / "summary.json").exists() for folder in (*folders, sweep))


@pytest.mark.parametrize("named", [None, "a/b"])
def test_nothing_is_left_of_a_run_that_writes_nothing(named: str | None, tmp_path: Path) -> None:
    with run_folder(named) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with run_folder("mine/run") as folder:
        folder.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert list((tmp_path / "mine").iterdir()) == []
    with run_folder("mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_a_folder_that_cannot_be_made_is_one_sentence() -> None:
    Path("outputs").touch()
    with (
        pytest.raises(UserError, match=r"^outputs/2026-03-04/12-00-00 cannot be used \(.*\): choose"),
        run_folder(None),
    ):
        pass
