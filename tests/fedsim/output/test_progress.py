"""What a person sees: plain lines in a pipe, one live line on a terminal, and whose log."""

import io
import logging
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from fedsim.output.progress import LiveReporter, NotebookReporter, PlainReporter, Reporter, console_reporter, logging_to

EVALUATED = {"client_accuracy_mean": 0.1234, "global_accuracy": 0.9876}


class Lines(Reporter):
    """Keeps what it is told to say."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def _levels_are_restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("fedsim", "strategies", "clients", "datasets", "flwr")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_a_plain_line_for_each_evaluated_round(stream: io.StringIO) -> None:
    reporter = PlainReporter(Console(file=stream, width=40))  # narrower than the lines, which must not be broken
    reporter.start(1, 20)
    reporter.round_done(0, EVALUATED)
    reporter.cohort(1, 6)
    reporter.client_done()
    reporter.round_done(1, {})
    reporter.round_done(2, EVALUATED)
    reporter.round_done(20, EVALUATED)
    reporter.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "round 0/20  client accuracy 12.3%  global accuracy 98.8%"
    assert re.fullmatch(r"round 2/20  client accuracy 12\.3%  global accuracy 98\.8%  \d+ s left", lines[1])
    assert lines[2] == "round 20/20  client accuracy 12.3%  global accuracy 98.8%  0 s left"
    assert len(lines) == 3


@pytest.mark.parametrize("make", [PlainReporter, LiveReporter])
def test_what_is_said_is_not_taken_for_markup(stream: io.StringIO, make: type[PlainReporter | LiveReporter]) -> None:
    text = "[bold]client 3[/bold] failed: " + "x" * 100
    make(Console(file=stream, width=40)).say(text)
    assert stream.getvalue() == text + "\n"


def test_the_live_line_shows_round_clients_and_accuracy(stream: io.StringIO) -> None:
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
    assert "client accuracy 12.3%" in shown
    assert "a line that stays\n" in shown.replace("\r", "")


def test_the_reporter_of_a_notebook_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.start(1, 2)
    reporter.cohort(1, 2)
    reporter.client_done()
    reporter.round_done(1, EVALUATED)
    reporter.say("nothing")
    reporter.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("verbose", "expected"), [(False, []), (True, ["INFO: of little interest"])])
def test_warnings_of_every_part_of_the_project_become_lines(verbose: bool, expected: list[str]) -> None:
    reporter = Lines()
    with logging_to(reporter, verbose=verbose):
        logging.getLogger("fedsim.server.loop").warning("client %d failed", 3)
        logging.getLogger("strategies.fedavg").error("left out")
        logging.getLogger("clients").warning("slow")
        logging.getLogger("datasets.digits").warning("few")
        logging.getLogger("fedsim.server.loop").info("of little interest")
        logging.getLogger("somebody.else").warning("not ours")
    said = ["WARNING: client 3 failed", "ERROR: left out", "WARNING: slow", "WARNING: few"]
    assert reporter.lines == said + expected


def test_nothing_is_routed_after_the_block_even_after_an_error() -> None:
    reporter = Lines()
    with pytest.raises(ZeroDivisionError), logging_to(reporter, verbose=False):
        raise ZeroDivisionError
    logging.getLogger("fedsim").warning("too late")
    assert reporter.lines == []


@pytest.mark.parametrize("verbose", [False, True])
def test_flowers_log_is_silent_unless_asked_for(verbose: bool) -> None:
    flower = logging.getLogger("flwr")
    flower.setLevel(logging.DEBUG)
    with logging_to(Lines(), verbose=verbose):
        assert flower.isEnabledFor(logging.INFO) == verbose
        assert flower.isEnabledFor(logging.ERROR)
    assert flower.level == logging.DEBUG


def test_the_levels_of_our_loggers_are_put_back() -> None:
    logger = logging.getLogger("strategies")
    logger.setLevel(logging.DEBUG)
    with logging_to(Lines(), verbose=False):
        pass
    assert logger.level == logging.DEBUG


def test_a_notebook_has_one_line_that_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    reporter = console_reporter()
    assert isinstance(reporter, NotebookReporter)
    reporter.say("fedavg on digits")
    reporter.start(1, 20)
    reporter.round_done(0, EVALUATED)
    reporter.round_done(1, {})
    reporter.round_done(2, EVALUATED)
    reporter.say("WARNING: x")
    reporter.close()
    out = capsys.readouterr().out
    first, line, warning, end = out.split("\n")
    assert (first, warning, end) == ("fedavg on digits", "WARNING: x", "")
    assert [part.split("  client")[0] for part in line.split("\r")] == ["", "round 0/20", "round 2/20"]
