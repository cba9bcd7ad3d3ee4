"""What several test files share: small settings, a small federation, and the command line."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before Flower or Ray is imported anywhere: neither may call home from a test.
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

from datasets.build import build_federation
from datasets.cache import VARIABLE
from datasets.federation import Federation
from datasets.partitions import Partition
from datasets.source import Part, Source
from fedsim.config.composition import compose
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.server.preparation import prepare

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SMALL = (
    *("rounds=2", "dataset.train_per_domain=40", "dataset.test_per_domain=20", "dataset.image_size=16"),
    *("device=cpu", "pictures=false"),
)
"""A federation of six clients that trains for two rounds in half a second."""

IMAGE_SHAPE = (3, 16, 16)
"""Of its images"""

MakeFederation = Callable[..., Federation]
CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
FullDisk = Callable[[int], AbstractContextManager[None]]


def small_settings(*overrides: str, small: bool = True) -> Settings:
    """The settings of the small federation, or with ``small=False`` only what ``overrides`` says, on the CPU."""
    return Settings.from_config(deepcopy(_composed(*(SMALL if small else ("device=cpu",)), *overrides)))


@cache
def _composed(*words: str) -> dict[str, Any]:
    """The configuration of these words, which many tests share; composing it takes a fifth of a second."""
    return compose(words)


@pytest.fixture(name="small_settings")
def small_settings_fixture() -> Callable[..., Settings]:
    return small_settings


@pytest.fixture
def refusal() -> Callable[..., str]:
    """The sentence with which a run with these words is refused, before it starts."""

    def refused(*words: str) -> str:
        with pytest.raises(UserError) as raised:
            prepare(small_settings(*words, small=False))
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return refused


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded images of the tests go to a folder of their own."""
    os.environ[VARIABLE] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def federation() -> Federation:
    settings = small_settings()
    return build_federation(settings)


@pytest.fixture
def make_federation() -> MakeFederation:
    """Client k belongs to domain k modulo ``domains`` and trains on k + 1 images, all but one of them of class 0."""

    def make(clients: int, domains: int = 2) -> Federation:
        partitions, labels, owners, parts = [], [], [], []
        for client in range(clients):
            first, domain = len(labels), client % domains
            labels += [1] + [0] * client + [2]
            owners += [domain] * (client + 2)
            parts += [Part.TRAIN] * (client + 1) + [Part.TEST]
            train, test = np.arange(first, first + client + 1), np.array([first + client + 1])
            partitions.append(Partition(client, f"domain{domain}", train, test))
        source = Source(
            images=np.zeros((len(labels), 1, 2, 2), np.uint8),
            labels=np.array(labels),
            domains=np.array(owners),
            parts=np.array(parts, np.uint8),
            domain_names=tuple(f"domain{number}" for number in range(domains)),
            class_names=("0", "1", "2"),
        )
        return Federation(source, partitions)

    return make


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """No file may grow beyond so many bytes for a while: the system refuses as it does on a full disk."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def full(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return full


@pytest.fixture
def run_py(tmp_path: Path) -> CommandLine:
    """Runs ``python run.py`` with the small federation, in a folder of its own."""

    def run(*arguments: str, small: bool = True) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(ROOT / "run.py"), *(SMALL if small else ()), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a Flower home of its own; what ``flwr run`` leaves running there is stopped by process id."""
    home = tmp_path / "flower"
    home.mkdir()
    yield {**os.environ, "FLWR_HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"FLWR_HOME={home}".encode() in environment.split(b"\0") and int(process.name) != os.getpid():
            os.kill(int(process.name), signal.SIGTERM)
