"""Page faults of a process that allocates the same again and again, with and without freed memory being kept."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedsim.core.freed_memory import HUGE_PAGES, TUNABLES, forget_huge_pages, huge_pages
from fedsim.engines.process import ProcessGrid
from tests.apps import counting_app
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


ASKED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
VERSION = tuple(map(int, re.findall(r"\d+", platform.libc_ver()[1])[:2]))


@pytest.mark.skipif(not ASKED.exists() or "[madvise]" not in ASKED.read_text(), reason="huge pages need no asking")
@pytest.mark.skipif(VERSION < (2, 35), reason="an older glibc does not ask")
def test_workers_ask_for_huge_pages() -> None:
    """The flag *hg* of the memory from which allocations are served; this process has none, and no variable either."""

    def flags(process_id: int | str) -> list[str]:
        maps = Path(f"/proc/{process_id}/smaps").read_text().split("[heap]", 1)[1]
        return next(line for line in maps.splitlines() if line.startswith("VmFlags")).split()

    with ProcessGrid(counting_app, 2, [torch.device("cpu")], workers=2) as grid:
        assert all("hg" in flags(worker) for worker in grid.worker_process_ids())
    assert "hg" not in flags("self")
    assert TUNABLES not in os.environ


def test_a_program_is_asked_to_by_a_variable_which_it_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TUNABLES, raising=False)
    with huge_pages():
        assert os.environ[TUNABLES] == HUGE_PAGES
        forget_huge_pages()
        assert TUNABLES not in os.environ
    monkeypatch.setenv(TUNABLES, "glibc.malloc.arena_max=2")
    with huge_pages():
        forget_huge_pages()
        assert os.environ[TUNABLES] == "glibc.malloc.arena_max=2"
    assert os.environ[TUNABLES] == "glibc.malloc.arena_max=2"
