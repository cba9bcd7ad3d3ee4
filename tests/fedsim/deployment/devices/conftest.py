"""A SuperLink with devices on this machine; see ``lab.py``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fedsim.deployment.devices.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "lab")
    try:
        yield made
    finally:
        made.close()
