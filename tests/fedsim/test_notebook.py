"""``fedsim.simulate``: tables in hand, and nothing printed."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedsim import simulate
from fedsim.errors import UserError
from tests.conftest import ROOT, SMALL


def test_a_simulation_returns_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = simulate(*SMALL, "strategy=fedwon", "engine=inline", "rounds=1", f"out_dir={tmp_path / 'run'}")
    assert result.clients.groupby("round").size().to_dict() == {0: 6, 1: 6}
    last = result.clients[result.clients["round"] == 1]
    assert result.summary["final"]["client_accuracy_mean"] == pytest.approx(last["accuracy"].mean())
    assert result.summary["strategy"] == "fedwon"
    assert capsys.readouterr().out == ""


def test_wrong_settings_raise_their_sentence() -> None:
    with pytest.raises(UserError, match="rounds=0 is not possible"):
        simulate("rounds=0")


def test_it_works_from_another_folder(tmp_path: Path) -> None:
    """The installed package finds the checkout's other folders by itself."""
    program = f"import sys; sys.path.append({str(ROOT / 'fedsim' / '..')!r}); import fedsim; sys.path.pop();" + (
        f"print(fedsim.simulate(*{SMALL!r}, 'rounds=1', 'engine=inline').run_dir)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.strip() / "summary.json").exists()


def test_hugging_faces_datasets_in_the_same_process_is_refused(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").touch()
    program = (
        f"import sys, datasets; sys.path.append({str(ROOT)!r}); import fedsim; from fedsim.errors import UserError\n"
        "try: fedsim.simulate('rounds=1')\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "is already imported, and fedsim has one of the same name" in done.stdout, done.stderr
