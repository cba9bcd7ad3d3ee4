"""Printing where nobody reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.output.terminal import Steady, console, print_line

ROOT = Path(__file__).parents[3]

PROGRAM = """
import sys
from fedsim.output.terminal import console, print_line, print_whole
from rich.table import Table
assert sys.stdin.readline() == "nobody reads any more\\n"
for _ in range(100):
    print_line("x" * 1000)
    console().print("y" * 1000)
print_whole(Table("a"))
print("z" * 1000)  # what others print
print("at the end", file=sys.stderr)
"""


def test_a_pipe_that_nobody_reads_ends_nothing() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate("nobody reads any more\n", timeout=120)
    assert (process.returncode, errors) == (0, "at the end\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk to try")
def test_nor_does_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        stream = Steady(full)
        assert stream.write("a line\n") == 7
        stream.flush()
        stream.flush()
        assert os.fstat(full.fileno()).st_rdev == os.stat(os.devnull).st_rdev


def test_nor_a_stream_that_is_closed_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w") as closed:
        pass
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        print_line("a line")
        console().print("another")
        assert not console().is_terminal
