"""What a person sees: plain lines in a pipe, two live lines on a terminal or in a notebook, or warnings alone."""

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fedsim.output.progress import Reporter
from fedsim.output.reporters import (
    ChangingReporter,
    Display,
    LiveReporter,
    NotebookReporter,
    PlainReporter,
    QuietReporter,
    console_reporter,
)
from fedsim.output.run_state import RunState

ROOT = Path(__file__).parents[3]
EVALUATED = {"client_accuracy_mean": 0.1234, "global_accuracy": 0.9876}
WORKED = {"client_accuracy_worst": 0.05, "images_per_second": 2310.4, "memory_mb": 812.3}


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def play(reporter: Reporter) -> None:
    """Two rounds of three clients, and a warning."""
    reporter.start(1, 2)
    reporter.round_done(0, EVALUATED)
    for round in (1, 2):
        reporter.cohort(round, 3)
        for _ in range(3):
            reporter.client_done()
        reporter.round_done(round, EVALUATED | WORKED | {"client_accuracy_mean": 0.4 * round})
    reporter.warn("WARNING: client 3 failed")
    reporter.close()


def drawn(state: RunState, width: int, encoding: str = "utf-8") -> list[str]:
    """The lines of a display of this width."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, color_system=None, legacy_windows=False)
    console.print(Display(state))
    file.seek(0)
    return file.read().splitlines()


def test_a_plain_line_for_each_evaluated_round(stream: io.StringIO) -> None:
    reporter = PlainReporter(Console(file=stream, width=40))  # narrower than the lines, which must not be broken
    reporter.start(1, 20)
    reporter.round_done(0, EVALUATED)
    reporter.cohort(1, 6)
    reporter.client_done()
    reporter.round_done(1, {})
    reporter.round_done(2, EVALUATED | WORKED)
    reporter.round_done(20, EVALUATED)
    reporter.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "round 0/20  client accuracy 12.3%  global accuracy 98.8%"
    assert re.fullmatch(
        r"round 2/20  client accuracy 12\.3%  worst 5\.0%  global accuracy 98\.8%  2310 images/s  812 MB  \d+ s left, "
        r"ends [\w :-]+",
        lines[1],
    )
    assert lines[2] == "round 20/20  client accuracy 12.3%  global accuracy 98.8%"
    assert len(lines) == 3
    assert "".join(lines).isprintable()


def test_runs_at_once_are_told_apart(stream: io.StringIO) -> None:
    play(PlainReporter(Console(file=stream), "job 3"))
    assert [line[:7] for line in stream.getvalue().splitlines()] == ["job 3  "] * 4


def test_a_quiet_run_shows_warnings_alone(stream: io.StringIO) -> None:
    reporter = QuietReporter(Console(file=stream))
    reporter.say("fedavg on digits")
    play(reporter)
    assert stream.getvalue() == "WARNING: client 3 failed\n"


@pytest.mark.parametrize("make", [PlainReporter, LiveReporter])
def test_what_is_said_is_not_taken_for_markup(stream: io.StringIO, make: type[PlainReporter | LiveReporter]) -> None:
    text = "[bold]client 3[/bold] failed: " + "x" * 100
    make(Console(file=stream, width=40)).say(text)
    assert stream.getvalue() == text + "\n"


def test_the_live_lines_change_and_are_gone_at_the_end(stream: io.StringIO) -> None:
    reporter = LiveReporter(Console(file=stream, width=120, force_terminal=True, color_system=None))
    reporter.start(1, 7)
    reporter.round_done(0, EVALUATED)
    reporter.cohort(3, 5)
    reporter.client_done()
    reporter.client_done()
    reporter.say("a line that stays")
    reporter.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "round 3/7" in shown
    assert "2/5 clients" in shown
    assert "client accuracy ▁ 12.3%" in shown
    assert "a line that stays\n" in shown.replace("\r", "")
    assert stream.getvalue().rstrip().endswith("\x1b[1A\x1b[2K")  # the last thing that is done is to clear a line


def test_the_two_lines_fit_any_width_and_any_encoding() -> None:
    state = RunState()
    state.start(1, 20)
    state.accuracies = [0.1, 0.4, 0.3, 0.6, 0.8]
    state.round, state.clients, state.done = 11, 6, 3
    state.evaluated = state.measured = EVALUATED | WORKED
    bar = "━" * 15 + "┄" * 15  # ten rounds and a half of twenty
    assert drawn(state, 80) == [
        f"round 11/20  {bar}  3/6 clients",
        "client accuracy ▁▄▃▆█ 12.3%  worst 5.0%  2310 images/s  812 MB",
    ]
    assert drawn(state, 80, "ascii") == [
        "round 11/20  " + "#" * 15 + "." * 15 + "  3/6 clients",
        "client accuracy .=-*@ 12.3%  worst 5.0%  2310 images/s  812 MB",
    ]
    assert drawn(state, 34) == ["round 11/20  ━━━━┄┄┄┄  3/6 clients", "client accuracy 12.3%  worst 5.0%"]
    assert drawn(state, 24) == ["round 11/20  3/6 clients", "client accuracy 12.3%"]
    for width in range(1, 200):
        assert max(map(len, drawn(state, width))) <= width
        assert len(drawn(state, width)) == 2


@pytest.mark.parametrize(
    ("terminal", "environment", "kind"),
    [
        (True, {}, "LiveReporter"),
        (True, {"TERM": "dumb"}, "PlainReporter"),
        (False, {"FORCE_COLOR": "1"}, "PlainReporter"),
        (False, {}, "PlainReporter"),
    ],
)
def test_only_a_terminal_that_can_has_lines_that_change(
    terminal: bool, environment: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Stream())
    reporter = console_reporter()
    shown = reporter.shown if isinstance(reporter, ChangingReporter) else reporter
    assert type(shown).__name__ == kind
    assert isinstance(console_reporter(label="job 1"), PlainReporter)
    assert isinstance(console_reporter(quiet=True), QuietReporter)


class Unwilling(LiveReporter):
    """A display that breaks when the first client has trained."""

    def client_done(self) -> None:
        raise RuntimeError("no display")


def test_a_display_that_fails_is_replaced_by_lines_and_says_so(
    stream: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = Console(file=io.StringIO(), force_terminal=True)
    play(ChangingReporter(Unwilling(nowhere), PlainReporter(Console(file=stream))))
    lines = stream.getvalue().splitlines()
    assert [line.partition("  worst")[0] for line in lines] == [
        "round 1/2  client accuracy 40.0%",
        "round 2/2  client accuracy 80.0%",
        "WARNING: client 3 failed",
    ]
    assert caplog.messages == [
        "the display of the run has failed (RuntimeError('no display')), and lines take its place"
    ]


def test_neither_ctrl_c_nor_the_end_of_the_plain_lines_is_caught(stream: io.StringIO) -> None:
    class Interrupted(LiveReporter):
        def client_done(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(ChangingReporter(Interrupted(Console(file=stream)), PlainReporter(Console(file=stream))))


CELL = f"""
from fedsim.output.reporters import console_reporter
reporter = console_reporter()
reporter.say("fedavg on digits")
reporter.start(1, 2)
for round in (1, 2):
    reporter.cohort(round, 3)
    for client in range(3):
        reporter.client_done()
    reporter.round_done(round, {EVALUATED | WORKED} | {{"client_accuracy_mean": 0.4 * round}})
reporter.say("WARNING: x")
reporter.close()
"""


def executed(source: str, folder: Path) -> tuple[str, list[dict[str, str]]]:
    """What a cell has printed, and what it has displayed in its last form, in a real kernel."""
    nbclient = pytest.importorskip("nbclient", reason="needs pip install -e '.[test]'")
    pytest.importorskip("ipykernel", reason="needs pip install -e '.[test]'")
    import nbformat

    cell = nbformat.v4.new_code_cell(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{source}")
    book = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(book, timeout=400, resources={"metadata": {"path": str(folder)}}).execute()
    said = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    return said, [output.data for output in cell.outputs if output.output_type == "display_data"]


def test_a_notebook_has_one_display_that_changes(tmp_path: Path) -> None:
    said, shown = executed(CELL, tmp_path)
    assert said == "fedavg on digits\nWARNING: x\n"
    assert len(shown) == 1
    for text in shown[0]["text/plain"], shown[0]["text/html"]:
        assert re.search(r"round 2/2 .*3/3 clients", text)
        assert re.search(r"client accuracy ▁█ 80\.0%  worst 5\.0%  2310 images/s  812 MB", text)


@pytest.mark.nightly
def test_so_has_a_simulation_in_a_notebook(tmp_path: Path) -> None:
    small = ("rounds=2", "dataset.train_per_domain=40", "dataset.test_per_domain=20", "device=cpu", "pictures=false")
    said, shown = executed(f"import fedsim\nrun = fedsim.simulate(*{small!r}, 'engine.workers=2')", tmp_path)
    assert re.fullmatch(r"fedavg on digits: 6 clients, .*\n", said)
    assert len(shown) == 1
    assert re.search(r"round 2/2 .*6/6 clients", shown[0]["text/html"])
    assert re.search(
        r"client accuracy [▁-█]{3} [\d.]+%  worst [\d.]+%  \d+ images/s  [\d.]+ [MG]B", shown[0]["text/html"]
    )


def test_a_notebook_is_drawn_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[Display] = []

    class Handle:
        update = updates.append

    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    reporter = NotebookReporter()
    reporter._shown = Handle()
    for _ in range(1000):
        reporter.client_done()
    assert len(updates) == 1
    reporter.close()
    assert len(updates) == 2
