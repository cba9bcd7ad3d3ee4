"""Printing of any text, unchanged, on any terminal."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def console(**options: Any) -> Console:
    """Return a console that interprets no markup: names from outside may contain ``[bold]`` or ``:cat:``."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def print_whole(table: Table) -> None:
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
