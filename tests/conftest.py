"""What several test files share: small settings, a small federation, and the command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Before Flower or Ray is imported anywhere: neither may call home from a test.
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

from datasets.federation import Federation, build_federation
from fedsim.config import compose
from fedsim.settings import Settings

ROOT = Path(__file__).parent.parent
SMALL = ("rounds=2", "dataset.train_per_domain=40", "dataset.test_per_domain=20", "device=cpu")
"""A federation of six clients that trains for two rounds in a second or two."""

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


def small_settings(*overrides: str) -> Settings:
    return Settings.from_config(compose([*SMALL, *overrides]))


@pytest.fixture(name="small_settings")
def small_settings_fixture() -> Callable[..., Settings]:
    return small_settings


@pytest.fixture(scope="session")
def federation() -> Federation:
    settings = small_settings()
    return build_federation(settings.dataset, settings.split, settings.seed)


@pytest.fixture
def run_py(tmp_path: Path) -> CommandLine:
    """Runs ``python run.py`` with the small federation, in a folder of its own."""

    def run(*arguments: str, small: bool = True) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(ROOT / "run.py"), *(SMALL if small else ()), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    return run
