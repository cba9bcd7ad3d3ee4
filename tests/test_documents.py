"""What the documents say about the tree: links, commands, the folder map and the words of the glossary."""

import re
import shlex
from pathlib import Path

import pytest

from fedsim.config.composition import compose
from fedsim.config.listing import asked_for
from fedsim.config.settings import Settings
from results import index

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CODE = ("fedsim", "strategies", "clients", "datasets")


def commands() -> list[str]:
    """The runs and sweeps in README.md and docs/running.md; of several values the first."""
    found = []
    for page in (ROOT / "README.md", ROOT / "docs" / "running.md"):
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            found += [line for line in block.splitlines() if line.startswith("python run.py")]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        if ":" in path:
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}, target


@pytest.mark.parametrize("command", commands())
def test_commands_are_settings_of_a_run(command: str) -> None:
    words = [word for word in shlex.split(command, comments=True)[2:] if not word.startswith("resume=")]
    if groups := asked_for(words):
        assert len(groups) == len(words)
        return
    if "-m" in words:
        words = [re.sub(r",[^\]]*$", "", word) for word in words if word != "-m"]
    Settings.from_config(compose(words))


def test_every_document_is_named_where_one_looks_next() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in readme]


def test_the_folder_map_has_every_room() -> None:
    rooms = {path.parent.relative_to(ROOT / "fedsim") for path in (ROOT / "fedsim").rglob("__init__.py")} - {Path()}
    assert not [room for room in map(Path.as_posix, rooms) if f"[{room}/](../fedsim/{room})" not in ARCHITECTURE]


def test_the_words_of_the_page_are_those_of_the_code() -> None:
    """Of the glossary's last column, and of the hooks: paths are there, and names stand in the code."""
    glossary = [row.split(" | ")[-1] for row in ARCHITECTURE.partition("\n## Glossary\n")[2].splitlines() if "`" in row]
    hooks = re.findall(r"^\| (`\w+\([\w, ]*\)`) \|", ARCHITECTURE, re.MULTILINE)
    assert len(glossary) > 30
    assert len(hooks) > 10
    text = "\n".join(path.read_text(encoding="utf-8") for folder in CODE for path in (ROOT / folder).rglob("*.py"))
    missing = []
    for name in re.findall(r"`([^`]+)`", "\n".join([*glossary, *hooks])):
        if "/" in name:
            there = (ROOT / name).exists()
        else:
            there = re.search(rf"\b{name.partition('(')[0]}\b", text) is not None or (ROOT / name).is_dir()
        missing += [] if there else [name]
    assert not missing


def test_the_page_of_all_results_is_made_of_theirs() -> None:
    assert index.PAGE.read_text(encoding="utf-8") == index.page(), "run python -m results.index"
