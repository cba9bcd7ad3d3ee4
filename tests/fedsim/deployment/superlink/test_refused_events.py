"""A server that sends what no run sends: one sentence, and nothing is written or overwritten."""

from pathlib import Path

import pytest
from rich.console import Console

from fedsim.core.errors import FedsimError
from fedsim.deployment.superlink.events import MARK
from fedsim.output.reporters import LiveReporter
from tests.fedsim.deployment.superlink.test_following import FINISHED, contents, event, file, play


@pytest.mark.parametrize(
    "line",
    [
        MARK,
        MARK + "{",
        MARK + "[" * 100_000,
        MARK + "7" * 10_000,
        MARK + "[]",
        MARK + "{}",
        MARK + '{"event": ["say"]}',
        event("close"),
        event("__init__", console=1),
        event("say"),
        event("say", text=1),
        event("say", text="a", more=1),
        event("start", first_round="1", rounds=2),
        event("start", first_round=1, rounds=True),
        event("start", first_round=1, rounds=10**400),
        event("cohort", round=1, clients=0),
        event("cohort", round=-1, clients=1),
        event("round_done", round=1, metrics=[]),
        event("round_done", round=1, metrics={"client_accuracy_mean": "high"}),
        event("round_done", round=1, metrics={"client_accuracy_mean": 0.5, "memory_mb": [1]}),
        event("warn", text=None),
        event("file", name="a"),
        event("file", name="a", size=-1),
        event("failed", sentence="no", exit_status="2"),
        event("finished", run_dir="/srv/run", left=[1]),
        event("finished", run_dir="/srv/run", left="a"),
    ],
    ids=lambda line: line[len(MARK) : len(MARK) + 60].strip(),
)
def test_what_no_run_writes_is_refused_in_one_sentence(line: str, tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"^the server sent a line that no run of this version writes: '") as refused:
        play([line, FINISHED], tmp_path)
    assert len(str(refused.value)) < 200
    assert refused.value.exit_status == 1


def test_whatever_is_let_through_can_be_shown(tmp_path: Path) -> None:
    """On a terminal, too, whose line divides by the number of clients."""
    with (tmp_path / "terminal").open("w") as terminal:
        reporter = LiveReporter(Console(file=terminal, force_terminal=True))
        lines = [
            event("client_done"),
            event("start", first_round=2**31 - 1, rounds=0),
            event("cohort", round=0, clients=1),
            *[event("client_done")] * 3,
            event("round_done", round=7, metrics={"client_accuracy_mean": float("nan"), "global_accuracy": 1e300}),
            event("round_done", round=2**31 - 1, metrics={"images_per_second": float("inf"), "memory_mb": -1e300}),
            event("say", text="[/nonsense]"),
            FINISHED,
        ]
        play(lines, tmp_path / "run", reporter)
        reporter.close()


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/..", "../a", "/etc/passwd", "a//b", "a/", ".bashrc", "plots/.hidden", "a/./b"),
        *("C:/a", "..\\a", "a:stream", "a\0b", "a\nb", "\ud800"),
    ],
)
def test_a_name_that_is_none_of_a_run_directory_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"^the server sent a file called .*, which is not of a run directory$"):
        play([*file(name), FINISHED], tmp_path / "in" / "run")
    assert not contents(tmp_path)


def test_nothing_that_was_there_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link.txt").symlink_to(tmp_path / "outside.txt")  # to nothing, as yet
    (tmp_path / "plots").mkdir()
    for name in ("notes.txt", "link.txt", "plots", "notes.txt/a.txt", "b.txt"):
        with pytest.raises(FedsimError, match=r" is there already$"):
            play([*file("b.txt"), *file("new/c.txt"), *file(name), FINISHED], tmp_path)
        # What came before it is taken back, so that the directory is as it was.
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link.txt", "notes.txt", "plots"]
    play([*file("b.txt"), *file("plots/c.txt"), FINISHED], tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine", "b.txt": b"data", "plots/c.txt": b"data"}
    assert not (tmp_path / "outside.txt").exists()


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plots").symlink_to(tmp_path / "outside")
    with pytest.raises(FedsimError, match="is there already"):
        play([*file("plots/a.png"), FINISHED], tmp_path / "run")
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([event("piece", data="AAAA")], "the server sent a piece of a file before its name"),
        ([event("file", name="a", size=3), event("piece", data="AA!A")], "a piece of a that is not base64"),
        ([event("file", name="a", size=3), event("piece", data="AAA")], "a piece of a that is not base64"),
        ([event("file", name="a", size=3), event("piece", data="ä")], "a piece of a that is not base64"),
        (file("a", size=3), "the server sent more of a than it said"),
        ([*file("a", size=5), FINISHED], "1 bytes of a are missing of what the server sent"),
        ([*file("a", size=5), *file("b"), FINISHED], "1 bytes of a are missing of what the server sent"),
        ([*file("a" * 300), FINISHED], r"cannot be written \(File name too long\)"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_and_taken_back(lines: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=sentence):
        play(lines, tmp_path)
    assert not list(tmp_path.iterdir())
