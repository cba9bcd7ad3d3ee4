"""Runs that are killed end as one that nothing disturbed; `python benchmarks/kill.py` does more of it."""

import shutil
from pathlib import Path

import pytest

from benchmarks.kill import MOMENTS, SMALL, Child, Kill, Times, differences, kills, tried

WORDS = (*SMALL, "rounds=2", "strategy=fedbn", "fraction=0.5", "engine=process", "engine.workers=2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Times]:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    return run_dir, Child([*WORDS, f"out_dir={run_dir}"]).finish()


@pytest.mark.nightly
@pytest.mark.parametrize("kill", [Kill("checkpoint", 1, 0.5), Kill("evaluation", 2, 0.3)], ids=str)
def test_a_killed_run_goes_on_to_the_same_files(kill: Kill, whole: tuple[Path, Times], tmp_path: Path) -> None:
    run_dir, known = whole
    assert tried(kill, WORDS, tmp_path / "run", run_dir, known) == (True, [])
    (tmp_path / "run" / "clients.csv").write_text("round\n")
    shutil.rmtree(tmp_path / "run" / "clients")
    (tmp_path / "run" / "more.csv").touch()
    parts = [f"clients/{client}.safetensors" for client in range(6)]
    assert differences(tmp_path / "run", run_dir) == [*parts, "more.csv", "clients.csv"]


def test_the_seed_decides_the_moments() -> None:
    assert list(kills(12, 5, 0)) == list(kills(12, 5, 0)) != list(kills(12, 5, 1))
    assert [kill.moment for kill in kills(12, 5, 0)] == [*MOMENTS, *MOMENTS]
    assert [kill.moment for kill in kills(2, 5, 0, first=5)] == [MOMENTS[5], MOMENTS[0]]
    assert {kill.round for kill in kills(12, 5, 0) if kill.moment == "end"} == {5}
