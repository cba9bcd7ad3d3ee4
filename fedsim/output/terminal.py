"""What is printed: as it is, whatever is in it, on whatever terminal."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def console(**options: Any) -> Console:
    """Return a console that takes nothing for markup: names from outside may hold ``[bold]`` or ``:cat:``."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def print_whole(table: Table) -> None:
    """Prints a table as wide as it is: on a narrow terminal its lines wrap, where rich would leave columns out."""
    usual = console()
    needed = usual.measure(table, options=usual.options.update(max_width=10_000)).maximum
    console(width=max(usual.width, needed)).print(table)


def never_fail_to_print() -> None:
    r"""Makes standard output write a character that its encoding lacks as ``\u1234``, as standard error does."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # what a test or a notebook puts there may have none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
