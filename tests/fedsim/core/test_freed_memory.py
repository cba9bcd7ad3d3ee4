"""Page faults of a process that allocates the same again and again, with and without freed memory being kept."""

import os
import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import resource, sys
import torch
from fedsim.core.freed_memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1:] else False
for step in range(20):
    if step == 8:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(12_000_000)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 12_000_000 * 4 // 4096
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def told(*words: str, **variables: str) -> tuple[bool, int]:
    """Whether memory is kept, and the page faults of twelve allocations after some."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=ROOT,
        env=plain | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = map(int, done.stdout.split())
    return bool(kept), faults


def test_what_is_freed_is_used_again() -> None:
    kept, faults = told("keep")
    assert kept
    assert faults < 5 * PAGES
    assert told()[1] > 10 * PAGES  # a page fault for each page of the twelve


def test_variables_of_the_allocator_win() -> None:
    assert told("keep", MALLOC_ARENA_MAX="2")[0] is False
    assert told("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] is False
