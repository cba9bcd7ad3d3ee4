"""Printing of any text, unchanged, on any terminal, whether or not somebody still reads it."""

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# rich is loaded by what is printed with it: a misspelt word is refused sooner without.


class Steady:
    """A stream that can be written to when its reader has left, as ``head`` does, or its terminal is closed.

    What is written from then on is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # the second where it is closed
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            return False

    def _give_up(self) -> None:
        """Let the file be the one that swallows everything: Python itself writes what is left to it when it ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def console(**options: Any) -> "Console":
    """Return a console that interprets no markup: names from outside may contain ``[bold]`` or ``:cat:``."""
    from rich.console import Console

    return Console(**{"file": _output(), "markup": False, "emoji": False, "highlight": False, **options})


def print_line(text: str) -> None:
    """Print a line at once."""
    print(text, file=_output(), flush=True)


def _output() -> TextIO | None:
    """Return the standard output of now; ``None`` for a process without one, to which nothing is printed."""
    return None if sys.stdout is None else cast(TextIO, Steady(sys.stdout))


def print_whole(table: "Table") -> None:
    """Print a table at its full width: on a narrow terminal its lines wrap, where rich would leave columns out."""
    usual = console()
    needed = usual.measure(table, options=usual.options.update(max_width=10_000)).maximum
    console(width=max(usual.width, needed)).print(table)


def never_fail_to_print() -> None:
    r"""Make standard output write characters that its encoding lacks as ``\u1234``, as standard error does."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # the streams of a test or a notebook may have none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
