"""The images' steps without Docker: what is copied is there, what is installed can be, and what is started starts."""

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.conftest import ROOT
from tests.documents import run

FILES = ("Dockerfile", "device.Dockerfile")
CHECKOUT = "/opt/fedsim"
"""Where both images have it."""
REQUIRED = (
    "run.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "fedsim",
    "strategies",
    "clients",
    "datasets",
    "configs",
)


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [
        (line.split()[0], line.partition(" ")[2]) for line in text.replace("\\\n", " ").splitlines() if line.strip()
    ]


def words(name: str, instruction: str) -> list[str]:
    """The words of the last instruction of this kind, which has the form of a list."""
    found = [rest for kind, rest in instructions(name) if kind == instruction]
    return [word.strip(' "') for word in found[-1].strip("[]").split(",")] if found else []


def left_out(path: str) -> bool:
    """Whether ``.dockerignore`` leaves a file out: the last rule that names it, or a folder above it, decides."""
    parts = path.split("/")
    above = ["/".join(parts[: length + 1]) for length in range(len(parts))]
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        rule = line.lstrip("!")
        names = [each.rpartition("/")[2] for each in above] if rule.startswith("**/") else above
        if any(
            fnmatch.fnmatchcase(each, rule.removeprefix("**/")) and each.count("/") <= rule.count("/") for each in names
        ):
            out = not line.startswith("!")
    return out


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``COPY . /opt/fedsim`` brings, of the files that git knows or would."""
    folder = tmp_path_factory.mktemp("image") / "fedsim"
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    for path in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if not left_out(path) and (ROOT / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, folder / path)
    return folder


def test_what_a_run_needs_is_copied_and_nothing_else(context: Path) -> None:
    assert not [name for name in REQUIRED if not (context / name).exists()]
    assert not [name for name in ("tests", "results", "examples", ".git") if (context / name).exists()]
    assert [path.name for path in (context / "docs").iterdir()] == ["strategies.csv"]


@pytest.mark.parametrize("name", FILES)
def test_the_image_is_slim_and_its_user_is_not_root(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    kinds = [kind for kind, _ in instructions(name)]
    ((_, image),) = [each for each in instructions(name) if each[0] == "FROM"]
    version = re.fullmatch(r"python:(\d+\.\d+)-slim", image)
    assert version is not None
    assert version[1] in SpecifierSet(project["requires-python"])
    user = dict(instructions(name))["USER"]
    assert user == "fedsim"
    assert any(f"useradd --create-home {user}" in rest for kind, rest in instructions(name) if kind == "RUN")
    assert kinds.index("USER") > max(place for place, kind in enumerate(kinds) if kind == "RUN")


def steps(name: str) -> Iterator[list[str]]:
    for kind, rest in instructions(name):
        if kind == "RUN":
            yield from (shlex.split(step) for step in rest.split(" && "))


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_its_steps_can_be_done(name: str, context: Path) -> None:
    """pip takes the project, whose dependencies are those of this environment; users and folders need root."""
    for step in steps(name):
        assert shutil.which(step[0]) or step[0] == "pip"
        if step[0] == "pip":
            here = [word.replace(CHECKOUT, str(context)) for word in step[1:]]
            run([sys.executable, "-m", "pip", *here, "--dry-run", "--no-deps", "--no-build-isolation"], context)


@pytest.mark.nightly
def test_the_simulator_starts(context: Path, tmp_path: Path) -> None:
    entry = [word.replace(CHECKOUT, str(context)) for word in words("Dockerfile", "ENTRYPOINT")]
    assert entry[0] == "python"
    assert words("Dockerfile", "CMD") == ["--help"]
    program = [sys.executable, *entry[1:]]
    assert "== Configuration groups ==" in run([*program, "--help"], tmp_path, PYTHONPATH=str(context))
    listed = run([*program, "strategy=list"], tmp_path, PYTHONPATH=str(context))
    assert "control both ways" in " ".join(listed.split())  # of docs/strategies.csv
    few = ["rounds=1", "dataset.train_per_domain=20", "dataset.test_per_domain=10", "engine=inline", "pictures=false"]
    run([*program, *few, "out_dir=outputs/run"], tmp_path, PYTHONPATH=str(context))
    assert (tmp_path / "outputs" / "run" / "clients.csv").is_file()


@pytest.mark.nightly
def test_a_device_starts_with_the_keys_that_the_page_tells_to_make(context: Path, tmp_path: Path) -> None:
    """``start.sh`` of a device without a virtual environment: the SuperNode says what it can be told."""
    page = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8").partition("\n## In a container\n")[2]
    assert "--data-dir /data --state-dir /state" in page
    command = [sys.executable, "-m", "fedsim.devices"]
    run([*command, "init", "lab", "--host", "127.0.0.1"], tmp_path, PYTHONPATH=str(context))
    paths = ["--data-dir", "/data", "--state-dir", "/state"]
    run([*command, "add", "lab", "pi1", *paths], tmp_path, PYTHONPATH=str(context))
    start, keys = words("device.Dockerfile", "CMD"), tmp_path / "lab" / "devices" / "pi1"
    assert start == ["sh", "/keys/start.sh"]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    said = run(["sh", str(keys / "start.sh"), "--help"], tmp_path, PATH=path)
    assert "--node-config" in said
    assert 'state-dir="/state"' in (keys / "device.env").read_text(encoding="utf-8")
