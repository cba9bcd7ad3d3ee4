"""The Flower app on Flower's own runtime: the same numbers as the inline engine."""

import ast
import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from fedsim import simulate
from fedsim.config.composition import choices
from tests.conftest import BIN, ROOT, SMALL

PATIENCE = 120.0
"""Seconds that a run may go on after ``flwr run`` has come back: on a busy machine its log can end before it does."""


def rest_of_run(run_dir: Path, rounds: int) -> bool:
    """Wait until a run has written its last round and then its model; whether it has."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            final = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))["final"]
        except (OSError, ValueError, KeyError):
            final = {}
        if final.get("round") == rounds and (run_dir / "model.safetensors").exists():
            return True
        time.sleep(0.5)
    return False


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.xdist_group("local-superlink")  # Flower's has one port, whatever its home
@pytest.mark.parametrize(
    "options",
    [
        ["strategy=fedbn", "local_epochs=2", "diagnostics=true", "tta=tent", "metrics=[ece,balanced_accuracy]"],
        ["strategy=fedtiny", "strategy.candidates=2", "strategy.blocks=2", "strategy.interval=1", "fraction=0.5"],
    ],
    ids=" ".join,
)
@pytest.mark.skipif(not Path("/proc").exists(), reason="the daemon is found in /proc")
def test_flwr_run_gives_the_numbers_of_the_inline_engine(
    options: list[str], flower: dict[str, str], tmp_path: Path
) -> None:
    overrides = [*SMALL, *options]
    config = " ".join([*overrides, f"out_dir={tmp_path / 'flower_run'}"])
    done = subprocess.run(
        [str(BIN / "flwr"), "run", str(ROOT), "--stream", "--run-config", f'overrides="{config}"'],
        cwd=tmp_path,
        env=flower,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert rest_of_run(tmp_path / "flower_run", rounds=2), done.stdout + done.stderr
    inline = simulate(*overrides, "engine=inline", f"out_dir={tmp_path / 'inline_run'}")
    # Two simulated SuperNodes host six clients in two processes; not a bit differs.
    for file in ("clients.csv", "classes.csv", *(["diagnostics.csv"] if "diagnostics=true" in options else [])):
        assert (tmp_path / "flower_run" / file).read_bytes() == (tmp_path / "inline_run" / file).read_bytes()
    summary = json.loads((tmp_path / "flower_run" / "summary.json").read_text())
    assert summary["final"] == inline.summary["final"]
    assert summary["bytes_up"] == inline.summary["bytes_up"]


@pytest.mark.nightly
@pytest.mark.slow
def test_the_bundle_holds_everything_the_app_needs_and_no_data(flower: dict[str, str], tmp_path: Path) -> None:
    """What Flower ships to other machines is enough to compose every configuration."""
    checkout = tmp_path / "checkout"
    shutil.copytree(
        ROOT,
        checkout,
        ignore=shutil.ignore_patterns(".git", "outputs", "multirun", "__pycache__", ".*_cache", "*.egg-info"),
    )
    built = subprocess.run(
        [str(BIN / "flwr"), "build", "--app", str(checkout)],
        cwd=tmp_path,
        env=flower,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (bundle,) = tmp_path.rglob("*.fab")
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(bundle).extractall(unpacked)
    assert bundle.stat().st_size < 3e6  # Flower allows ten million
    program = (
        "import fedsim.app.server_app, fedsim.app.client_app\n"
        "from fedsim.config.composition import GROUPS, choices, compose\n"
        "for group in GROUPS:\n"
        "    [compose([f'{group}={choice}']) for choice in choices(group)]\n"
        "print(choices('strategy'))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=unpacked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == choices("strategy")
