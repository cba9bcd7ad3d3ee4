"""The progress of a run as users see it: lines that change on a terminal or in a notebook, plain lines elsewhere."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.jupyter import JupyterMixin
from rich.live import Live
from rich.text import Text

from fedsim.output.progress import Reporter
from fedsim.output.run_state import GAP, RunState, fitting
from fedsim.output.terminal import console

log = logging.getLogger(__name__)

REFRESHED = 4
"""How often a second a display is drawn at most"""
LONGEST_BAR, SHORTEST_BAR = 30, 8
"""Characters; where there is no room for the shortest, there is none."""


class _Following(Reporter):
    """Notes what it is told of the run."""

    def __init__(self) -> None:
        self.state = RunState()

    def start(self, first_round: int, rounds: int) -> None:
        self.state.start(first_round, rounds)

    def resumed(self, accuracies: Sequence[float]) -> None:
        self.state.accuracies = list(accuracies)

    def cohort(self, round: int, clients: int) -> None:
        self.state.cohort(round, clients)

    def client_done(self) -> None:
        self.state.client_done()

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        self.state.round_done(round, metrics)


class PlainReporter(_Following):
    """Prints a line per evaluated round, for logs and pipes.

    Args:
        console: Where it is printed.
        label: What each line begins with, to tell runs apart that are made at once.
    """

    def __init__(self, console: Console, label: str = "") -> None:
        super().__init__()
        self.console = console
        self._label = f"{label}{GAP}" if label else ""

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        super().round_done(round, metrics)
        if "client_accuracy_mean" in metrics:
            self.say(self.state.line(round))

    def say(self, text: str) -> None:
        _print(self.console, self._label + text)


class QuietReporter(Reporter):
    """Prints warnings alone."""

    def __init__(self, console: Console, label: str = "") -> None:
        self._plain = PlainReporter(console, label)

    def warn(self, text: str) -> None:
        self._plain.say(text)


class LiveReporter(_Following):
    """Shows on a terminal two lines that change, which are gone when the run ends."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._live = Live(Display(self.state), console=console, refresh_per_second=REFRESHED, transient=True)

    def start(self, first_round: int, rounds: int) -> None:
        super().start(first_round, rounds)
        self._live.start()

    def say(self, text: str) -> None:
        _print(self.console, text)

    def close(self) -> None:
        self._live.stop()


class NotebookReporter(_Following):
    """Shows below a cell of a notebook two lines that change, which stay when the run ends."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: Any = None  # IPython's handle of what is displayed
        self._drawn = 0.0

    def start(self, first_round: int, rounds: int) -> None:
        from IPython.display import display  # there is one wherever there is a notebook

        super().start(first_round, rounds)
        self._shown = display(Display(self.state), display_id=True)  # type: ignore[no-untyped-call]

    def client_done(self) -> None:
        super().client_done()
        self._draw()

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        super().round_done(round, metrics)
        self._draw()

    def say(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        self._draw(now=True)

    def _draw(self, *, now: bool = False) -> None:
        """Draw what is shown anew, unless that was done a moment ago."""
        if self._shown is not None and (now or time.monotonic() - self._drawn >= 1 / REFRESHED):
            self._shown.update(Display(self.state))
            self._drawn = time.monotonic()


class ChangingReporter(Reporter):
    """A live display, and plain lines in its place if it fails: no display is worth a run."""

    def __init__(self, live: LiveReporter | NotebookReporter, plain: PlainReporter) -> None:
        self.shown: LiveReporter | NotebookReporter | PlainReporter = live
        self._plain = plain

    def start(self, first_round: int, rounds: int) -> None:
        self._tell("start", first_round, rounds)

    def resumed(self, accuracies: Sequence[float]) -> None:
        self._tell("resumed", accuracies)

    def cohort(self, round: int, clients: int) -> None:
        self._tell("cohort", round, clients)

    def client_done(self) -> None:
        self._tell("client_done")

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        self._tell("round_done", round, metrics)

    def say(self, text: str) -> None:
        self._tell("say", text)

    def close(self) -> None:
        self._tell("close")

    def _tell(self, event: str, *values: Any) -> None:
        try:
            getattr(self.shown, event)(*values)
        except Exception as error:
            if self.shown is self._plain:
                raise
            self._plain.state = self.shown.state
            failed, self.shown = self.shown, self._plain
            with suppress(Exception):  # it has failed already
                failed.close()
            log.warning("the display of the run has failed (%r), and lines take its place", error)


class Display(JupyterMixin):
    """Two lines about a run, as wide as what they are shown on.

    The first has the round, a bar, the clients that have trained in the round, the time left and the end; the second
    the curve of client accuracy so far, its mean and worst client now, images/s and memory.
    """

    def __init__(self, state: RunState) -> None:
        self._state = state

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width, plain = options.max_width, options.ascii_only or options.legacy_windows
        round, *others = self._state.where()
        bar = _bar(self._state.completed, width - len(GAP.join([round, "", *others])), ascii_only=plain)
        for parts in ([round, *bar, *others], self._state.how_well(width, ascii_only=plain)):
            if parts:
                yield Text(fitting(parts, width), no_wrap=True, overflow="crop", end="\n")


def _bar(share: float, room: int, *, ascii_only: bool) -> list[str]:
    """Return a bar that is full up to this share, if there is room for one."""
    width = min(LONGEST_BAR, room)
    if width < SHORTEST_BAR:
        return []
    full = int(share * width)
    done, ahead = ("#", ".") if ascii_only else ("━", "┄")
    return [done * full + ahead * (width - full)]


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def console_reporter(*, quiet: bool = False, label: str = "") -> Reporter:
    """Return the reporter that suits the standard output of this process.

    Args:
        quiet: Whether only warnings are shown.
        label: What tells the run apart from others that are made at once; with one, nothing changes in place.
    """
    shown = console()
    if quiet:
        return QuietReporter(shown, label)
    if label:
        return PlainReporter(shown, label)
    if shown.is_jupyter:
        return ChangingReporter(NotebookReporter(), PlainReporter(shown))
    # FORCE_COLOR makes a pipe a terminal for rich, which a log is not.
    if shown.is_terminal and shown.file.isatty() and not shown.is_dumb_terminal:
        return ChangingReporter(LiveReporter(shown), PlainReporter(shown))
    return PlainReporter(shown)
