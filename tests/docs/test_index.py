"""The quick start: completion in the shell, and how to cite."""

import shutil
import subprocess
import tomllib

import pytest
import yaml

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
COMPLETED = """
complete_line() {
    COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$2
    hydra_bash_completion
    echo "${COMPREPLY[@]}"
}
complete -p python
complete_line "python run.py strategy=fedw" 2
complete_line "python run.py dataset=" 2
complete_line "python run.py strategy=fedwon strategy.cl" 3
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="completes in bash")
def test_bash_completes_choices_and_options() -> None:
    install = PAGE.partition("```bash\n")[2].partition("```")[0]
    done = subprocess.run(
        ["bash", "-c", install + COMPLETED], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    registered, method, sets, options = done.stdout.splitlines()
    assert "hydra_bash_completion python" in registered, done.stderr
    assert method == "strategy=fedwon"
    assert sets.split() == [f"dataset={path.stem}" for path in sorted((ROOT / "configs" / "dataset").glob("*.yaml"))]
    assert options.split() == ["strategy.client=", "strategy.clip=", "strategy.clip_classifier="]


def test_the_citation_is_of_this_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["title"].startswith(f"{project['name']}: ")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
