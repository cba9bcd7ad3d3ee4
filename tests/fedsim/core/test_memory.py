"""What there is and the peak against what the kernel says elsewhere, and against memory that is really used."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.core.memory import Memory, peak_memory_mb, resident_memory_mb

ROOT = Path(__file__).parents[3]
PROGRAM = """
from fedsim.core.memory import peak_memory_mb
before = peak_memory_mb()
block = b"x" * 300_000_000
with_block = peak_memory_mb()
del block
print(before, with_block, peak_memory_mb())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells it there")
def test_what_there_is_now_is_what_the_kernel_says() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert resident_memory_mb() == pytest.approx(pages * resource.getpagesize() / 1e6, rel=0.02)
    now = Memory.now()
    assert 0 < now.resident <= 1.02 * now.peak


def test_the_peak_grows_with_what_is_used_and_does_not_shrink() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    before, with_block, after = map(float, done.stdout.split())
    assert after >= with_block - 1  # the kernel's counters are exact to some pages per thread
    assert with_block >= 290
    assert with_block - before <= 310


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells it there")
def test_the_unit_is_a_million_bytes() -> None:
    status = Path("/proc/self/status").read_text()
    kibibytes = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_memory_mb() == pytest.approx(kibibytes * 1024 / 1e6, rel=0.02)
