"""The events of a run, and whose log is shown among them."""

import logging
from collections.abc import Iterator

import pytest

from fedsim.output.progress import Reporter, logging_to

EVALUATED = {"client_accuracy_mean": 0.1234, "global_accuracy": 0.9876}


class Lines(Reporter):
    """Keeps what it is told to say."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _levels_are_restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("fedsim", "strategies", "clients", "datasets", "flwr")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_whoever_follows_nothing_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
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
