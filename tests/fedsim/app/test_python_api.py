"""``fedsim.simulate``: tables in hand, from notebooks, scripts and other programs."""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from fedsim import compare, simulate
from fedsim.app.run import Run
from fedsim.core.errors import UserError
from fedsim.output.results import read_result
from fedsim.report.command import main as report
from fedsim.report.labels import group_by_settings
from fedsim.report.page.writing import page
from tests.conftest import ROOT, SMALL


def test_a_simulation_returns_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = simulate(*SMALL, "strategy=fedwon", "engine=inline", "rounds=1", f"out_dir={tmp_path / 'run'}")
    assert result.clients.groupby("round").size().to_dict() == {0: 6, 1: 6}
    last = result.clients[result.clients["round"] == 1]
    assert result.summary["final"]["client_accuracy_mean"] == pytest.approx(last["accuracy"].mean())
    assert result.summary["strategy"] == "fedwon"
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("fedwon on digits: 6 clients, cnn_small with sws, sgd with lr 0.8, inline on ")
    accuracy = f"{last['accuracy'].mean():.1%}"
    assert said[2].startswith(f"round 1/1  client accuracy {accuracy}")


def test_a_resumed_run_keeps_its_own_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = simulate(*SMALL, "engine=inline", "lr=0.01", f"out_dir={tmp_path / 'run'}", progress=False)
    resumed = simulate(f"resume={tmp_path / 'run'}", progress=False)
    assert resumed.summary["final"] == first.summary["final"]
    assert "lr: 0.01" in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"^lr=0\.1 cannot be given with resume="):
        simulate(f"resume={tmp_path / 'run'}", "lr=0.1")
    assert capsys.readouterr().out == ""


SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import fedsim
result = fedsim.simulate(*{SMALL!r}, "rounds=1", "engine.workers=2", "out_dir=run", progress=False)
print("accuracy", result.summary["final"]["client_accuracy_mean"])
"""
PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import fedsim, hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path="conf", config_name="mine")
def main(config):
    before = HydraConfig.get().runtime.output_dir
    result = fedsim.simulate(*{SMALL!r}, f"rounds={{config.rounds}}", "engine.workers=2", "out_dir=run", progress=False)
    assert HydraConfig.get().runtime.output_dir == before
    print("accuracy", result.summary["final"]["client_accuracy_mean"])

if __name__ == "__main__":
    main()
"""


@pytest.mark.nightly
@pytest.mark.parametrize(
    "kind", ["file", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("stdin", "hydra"))]
)
def test_workers_do_not_run_the_users_program_again(kind: str, tmp_path: Path) -> None:
    """Without ``if __name__ == "__main__"``, from standard input, and within somebody's own ``@hydra.main``."""
    text = PROGRAM if kind == "hydra" else SCRIPT
    (tmp_path / "program.py").write_text(text)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text("rounds: 1\n")
    command = [sys.executable, "-" if kind == "stdin" else "program.py"]
    done = subprocess.run(command, input=text, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert done.stdout == f"accuracy {summary['final']['client_accuracy_mean']}\n"


def test_wrong_settings_raise_their_sentence() -> None:
    with pytest.raises(UserError, match="rounds=0 is not possible"):
        simulate("rounds=0")


@pytest.mark.nightly
def test_it_works_from_another_folder(tmp_path: Path) -> None:
    """The installed package finds the checkout's other folders by itself."""
    program = f"import sys; sys.path.append({str(ROOT / 'fedsim' / '..')!r}); import fedsim; sys.path.pop();" + (
        f"print(fedsim.simulate(*{SMALL!r}, 'rounds=1', 'engine=inline', progress=False).run_dir)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip() / "summary.json").exists()


def test_hugging_faces_datasets_in_the_same_process_is_refused(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").touch()
    program = (
        f"import sys, datasets; sys.path.append({str(ROOT)!r}); import fedsim\n"
        "from fedsim.core.errors import UserError\n"
        "try: fedsim.simulate('rounds=1')\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "is already imported, and fedsim has one of the same name" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    words = (*SMALL, "rounds=1", "engine=inline")
    return [
        simulate(*words, f"strategy={method}", f"seed={seed}", f"out_dir={folder / f'{method}{seed}'}", progress=False)
        for method in ("fedavg", "fedbn")
        for seed in (0, 1)
    ]


@pytest.mark.nightly
def test_a_comparison_is_that_of_the_report(runs: list[Run], tmp_path: Path) -> None:
    found = compare([runs[0], str(runs[1].run_dir), *(run.run_dir for run in runs[1:])])
    accuracies = [100 * run.summary["final"]["client_accuracy_mean"] for run in runs[2:]]
    row = found.table[(found.table["label"] == "fedbn") & (found.table["domain"] == "mean")].iloc[0]
    assert row["mean"] == pytest.approx(sum(accuracies) / 2)
    assert row["std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert row["runs"] == 2
    assert report([str(runs[0].run_dir.parent), f"--out={tmp_path}"]) == 0
    written = pd.read_csv(tmp_path / "comparison.csv", keep_default_na=False, na_values={"std": [""]})
    pd.testing.assert_frame_equal(found.table, written, check_dtype=False)
    for figure, name in ((found.figure, "domains"), (found.curves, "rounds")):
        shown = imread(BytesIO(figure._repr_png_()))
        assert np.array_equal(shown, imread(tmp_path / f"comparison_{name}.png"))


def test_a_run_is_drawn_and_reported(runs: list[Run]) -> None:
    lines = runs[2].plot().axes[0].lines
    assert lines[0].get_ydata().tolist() == pytest.approx((100 * runs[2].rounds["client_accuracy_mean"]).tolist())
    assert len(runs[2].plot("clients").axes[0].patches) == 6
    with pytest.raises(UserError, match="picture=labels is not one of this run: choose accuracy or clients"):
        runs[2].plot("labels")
    assert not (runs[2].run_dir / "plots").exists()
    without = (runs[2].run_dir / "report.html").read_text()  # pictures=false
    assert runs[2].report().read_text() == page(group_by_settings([read_result(runs[2].run_dir)])) != without


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"compare=\[\] is not possible: choose results, run directories"):
        compare([])
    with pytest.raises(UserError, match="holds no run"):
        compare([tmp_path])
