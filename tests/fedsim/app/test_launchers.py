"""Sweeps whose jobs run at once, by Hydra's launchers: the same files, and a job that fails ends none of the others."""

import os
from pathlib import Path

import pytest
import yaml

from tests.conftest import CommandLine

pytestmark = pytest.mark.slow
SWEEP = ("strategy=fedbn", "lr=0.05,1e9", "rounds=1", "min_fraction_success=1")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("launcher", "package", "workers"),
    [
        ("joblib", "hydra_plugins.hydra_joblib_launcher", max(1, len(os.sched_getaffinity(0)) // 2)),
        pytest.param("submitit_local", "hydra_plugins.hydra_submitit_launcher", None, marks=pytest.mark.nightly),
    ],
)
def test_jobs_at_once_write_what_jobs_one_by_one_do(
    launcher: str, package: str, workers: int | None, run_py: CommandLine, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    options = ("hydra.launcher.n_jobs=2",) if launcher == "joblib" else ("hydra.launcher.timeout_min=5",)
    done = run_py("-m", f"hydra/launcher={launcher}", *options, *SWEEP, "out_dir=sweep")
    assert done.returncode == 1, done.stderr
    assert not (tmp_path / "sweep" / "1" / "report.html").exists()
    if launcher == "joblib":  # whose jobs print here, both at once
        assert "job 1 of 2: lr=0.05\n" in done.stdout
        assert "\njob 1  round 1/1  client accuracy " in done.stdout
        assert "left" not in done.stdout.partition("job 1  round")[0]
    alone = run_py(*(word.replace(",1e9", "") for word in SWEEP), "engine=inline", "out_dir=alone")
    assert alone.returncode == 0, alone.stderr
    for file in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "sweep" / "0" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    config = yaml.safe_load((tmp_path / "sweep" / "0" / "config.yaml").read_text(encoding="utf-8"))
    assert config["engine"]["workers"] == workers
