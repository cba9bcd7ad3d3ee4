"""What the documents say about the tree: links, commands, the folder map and the words of the glossary."""

import argparse
import importlib.util
import re
import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedsim.app.cli import _parse
from fedsim.config.composition import compose
from fedsim.config.listing import asked_for
from fedsim.config.overrides import parse
from fedsim.config.settings import Settings
from results import index
from tests.conftest import ROOT
from tests.documents import DOCS, PAGES, RESULTS, SETTINGS, Command, commands

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CODE = ("fedsim", "strategies", "clients", "datasets")
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "results" / "README.md", *RESULTS]
COMMANDS = commands([page for page in [*PAGES, *RESULTS] if page.name != "adding.md"])
"""Those of ``adding.md`` need its files; ``tests/docs/test_adding.py`` follows that page."""
OF_SETTINGS = [command for command in COMMANDS if command.program in SETTINGS]
BY_DAY = (ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "running.md")
"""Composing the settings of all pages' commands takes a minute."""
OF_OTHERS = [
    command
    for command in COMMANDS
    if command.program not in (*SETTINGS, "mkdocs") and "results/" not in command.program
]
"""Those of ``results/`` have no parser, and write there."""


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
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


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=[] if each.page in BY_DAY else pytest.mark.nightly) for each in OF_SETTINGS],
    ids=str,
)
def test_commands_are_settings_of_a_run(command: Command) -> None:
    """Each value of a sweep beside the first ones of the others."""
    options, overrides = _parse(command.arguments)
    words = [word for word in overrides if not word.startswith("resume=")]
    if groups := asked_for(words):
        assert len(groups) == len(words)
        return
    if options.config_path is not None:
        return
    values = {
        word: [f"{parse(word).get_key_element()}={value}" for value in parse(word).sweep_string_iterator()]
        for word in words
        if options.multirun and parse(word).is_sweep_override()
    }
    first = [values.get(word, [word])[0] for word in words]
    for place, word in enumerate(words):
        for value in values.get(word, first[place : place + 1]):
            Settings.from_config(compose([*first[:place], value, *first[place + 1 :]]))


class Parsed(Exception):
    """The words of a command have been read."""


@pytest.mark.parametrize("command", OF_OTHERS, ids=str)
def test_commands_are_read_by_their_programs(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program runs as far as it has read its words."""
    if command.words[0] == "-m" and not command.arguments:
        assert importlib.util.find_spec(command.program) is not None  # the name of a program, in a sentence
        return
    read, depth = argparse.ArgumentParser.parse_known_args, 0

    def known(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> tuple[argparse.Namespace, list[str]]:
        nonlocal depth
        depth += 1
        found, others = read(self, *args, **kwargs)
        depth -= 1
        if depth:  # the words of a subcommand
            return found, others
        raise Parsed(others)

    def all_known(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        with pytest.raises(Parsed) as parsed:
            self.parse_known_args(*args, **kwargs)
        raise Parsed if not parsed.value.args[0] else ValueError(f"{parsed.value.args[0]} are no words of the program")

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", known)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", all_known)
    monkeypatch.setattr(sys, "argv", [command.program, *command.arguments])
    monkeypatch.syspath_prepend(str((ROOT / command.program).parent))
    with pytest.raises(Parsed):
        start(command)


def start(command: Command) -> None:
    """Run the program in this process, as ``python`` does."""
    if command.words[0] == "-m":
        runpy.run_module(command.program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(ROOT / command.program), run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_extras_and_markers_are_there(page: Path) -> None:
    """What pages tell to install is an extra, and what they tell to test is a marker, of ``pyproject.toml``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    markers = {each.partition(":")[0] for each in project["tool"]["pytest"]["ini_options"]["markers"]}
    text = page.read_text(encoding="utf-8")
    extras = {name for found in re.findall(r"""pip install -e ["']\.\[([\w,]+)\]""", text) for name in found.split(",")}
    assert not extras - project["project"]["optional-dependencies"].keys()
    chosen = " ".join(re.findall(r"""pytest -m (\w+|"[^"]+"|'[^']+')""", text))
    assert not set(re.findall(r"\w+", chosen)) - {"not", "and", "or"} - markers


def test_every_document_is_named_where_one_looks_next() -> None:
    """In the README, and in what the site is found by."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in readme]
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = site.partition("\nnav:\n")[2]
    assert not [page.name for page in DOCS if not re.search(rf"[ :]{page.name}$", navigation, re.MULTILINE)]


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
