"""What the project promises about itself: its README works, and its rooms keep to themselves."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_the_simulator_knows_no_method_by_name() -> None:
    """A method is bound by its YAML; its name may stand in help texts but not in code that decides."""
    names = [path.stem for path in (ROOT / "configs" / "strategy").glob("*.yaml")]
    decides = re.compile(rf"""(==|!=|\bin|\bcase)\s*[(\[{{]?\s*["']({"|".join(names)})["']""")
    imports = re.compile(r"^\s*(from|import) (strategies|clients)\.", re.MULTILINE)
    for path in python_files("fedsim"):
        text = path.read_text()
        assert not decides.search(text), path
        assert not imports.search(text), path


def test_batch_norm_is_never_found_by_its_name() -> None:
    pattern = re.compile(r"""["'][._]?bn[._]?["'] (not )?in """)
    assert not [path for path in python_files("fedsim", "strategies", "clients") if pattern.search(path.read_text())]


def test_only_the_simulator_is_installed() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {package.partition(".")[0] for package in packages} == {"fedsim"}
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in python_files("fedsim")}
    assert set(packages) == folders


def test_flower_ships_every_module() -> None:
    """``flwr build`` leaves out what is named like a test."""
    modules = python_files("fedsim", "strategies", "clients", "datasets")
    assert not [path for path in modules if path.name.startswith("test_") or path.stem.endswith("_test")]


def test_every_file_the_readme_names_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 10
    assert not [link for link in links if not (ROOT / link).exists()]


def test_ci_runs_the_readmes_commands_to_the_letter() -> None:
    block = README.partition("```\n")[2].partition("```")[0]
    commands = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert commands == ["pip install -e . && python run.py strategy=fedwon", 'pip install -e ".[test]" && pytest']
    assert set(commands) <= set((ROOT / ".ci" / "run").read_text().splitlines())


@pytest.mark.slow
def test_the_readmes_example_of_a_new_method_runs(tmp_path: Path) -> None:
    """Its files are put where it says, and nothing else is touched."""
    python = re.search(r"```python\n(\"\"\"FedProx.*?)```", README, re.DOTALL)
    yaml = re.search(r"```yaml\n(name: fedprox.*?)```", README, re.DOTALL)
    assert python is not None
    assert yaml is not None
    assert python[1].count("\n") + yaml[1].count("\n") < 40
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", "outputs", "multirun", "*cache*", "*.egg-info", "results", "tests")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    (checkout / "clients" / "fedprox.py").write_text(python[1])
    (checkout / "configs" / "strategy" / "fedprox.yaml").write_text(yaml[1])

    def final_loss(mu: float) -> float:
        small = ["rounds=1", "dataset.train_per_domain=40", "dataset.test_per_domain=20", "engine=inline", "lr=0.2"]
        command = [
            sys.executable,
            "run.py",
            "strategy=fedprox",
            f"strategy.mu={mu}",
            *small,
            f"out_dir={tmp_path / str(mu)}",
        ]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        rows = (tmp_path / str(mu) / "rounds.csv").read_text().splitlines()
        return float(dict(zip(rows[0].split(","), rows[2].split(","), strict=True))["global_loss"])

    # The proximal term holds the clients back: with a strong one the model stays nearer to where it was.
    assert final_loss(0.0) != final_loss(1.0)
