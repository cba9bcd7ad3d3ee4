"""What the project promises about itself: its README works, and its rooms keep to themselves."""

import ast
import re
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
    for path in python_files("fedsim"):
        assert not decides.search(path.read_text()), path


def imported(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return names | {f"{node.module}.{alias.name}" for node in froms for alias in node.names}


def test_the_simulator_imports_no_method() -> None:
    """But for ``fedsim.strategies``, the folder ``strategies/`` under another name, for apps of others."""
    methods = re.compile(r"(strategies|clients|fedsim\.strategies)(\.|$)")
    importing = [path for path in python_files("fedsim") if any(map(methods.match, imported(path)))]
    assert importing == [ROOT / "fedsim" / "strategies.py"]


SPARSE_WORDS = re.compile(r"\b(sparse|sparsity|density|densities|prune|pruned|pruning|masks)\b", re.IGNORECASE)
OTHER_MEANINGS = {
    "fedsim/methods/client_state.py": "the name of a record in the checkpoints of before there were namespaces",
    "fedsim/heads/local_generic.py": "how much of FedLoGe's fixed classifier is zero",
    "fedsim/heads/sparse_frame.py": "that classifier, a sparse frame",
}
"""The files that use such a word, and for what."""


def test_the_simulator_knows_nothing_of_sparse_networks() -> None:
    """Docstrings included: all that those methods share is in ``fedsim/methods/sparse``, and nothing else there needs
    it."""
    sparse, found = ROOT / "fedsim" / "methods" / "sparse", []
    for path in python_files("fedsim"):
        if sparse not in path.parents:
            assert not [name for name in imported(path) if name.startswith("fedsim.methods.sparse")], path
            if SPARSE_WORDS.search(path.read_text()):
                found.append(path.relative_to(ROOT).as_posix())
    assert found == sorted(OTHER_MEANINGS)
    lines = (ROOT / "fedsim" / "methods" / "client_state.py").read_text().splitlines()
    assert [line.strip() for line in lines if SPARSE_WORDS.search(line)] == ['"masks": f"{CACHED}masks",']


def test_the_data_sets_know_no_program() -> None:
    """Neither what draws and prints nor what runs; ``datasets/show.py`` is the name of a command and nothing else."""
    imports = re.compile(r"^(from|import) fedsim\.(app|output|report|server|engines)\b", re.MULTILINE)
    assert not [path for path in python_files("datasets") if imports.search(path.read_text())]


def test_batch_norm_is_never_found_by_its_name() -> None:
    pattern = re.compile(r"""["'][._]?bn[._]?["'] (not )?in """)
    assert not [path for path in python_files("fedsim", "strategies", "clients") if pattern.search(path.read_text())]


def test_only_the_simulator_is_installed() -> None:
    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert find == {"include": ["fedsim*"]}
    folders = {path.parent for path in python_files("fedsim")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]  # else it is not found


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
def test_every_room_can_be_imported_first() -> None:
    """Import each in a process that has none of the others yet: two that need each other work in one order only."""
    folders = ("fedsim", "strategies", "clients", "datasets")
    rooms = [path.parent for path in python_files(*folders) if path.stem == "__init__"]
    names = [".".join(path.relative_to(ROOT).parts) for path in rooms]
    names += [
        "fedsim.devices",
        "fedsim.tune",
        "fedsim.reproduce",
        "fedsim.report.command",
        "fedsim.app.cli",
        "fedsim.app.client_app",
    ]
    program = (
        "import importlib, sys, torch, flwr\n"
        f"for name in {names}:\n"
        f"    ours = [key for key in sys.modules if key.split('.')[0] in {folders}]\n"
        "    for key in ours: del sys.modules[key]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
