"""What the tests of the documents share: the pages, the commands that stand in them, and how one is run."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from tests.conftest import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
RESULTS = sorted((ROOT / "results").glob("*/README.md"))
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(python [^`\n]+)`")
ASSIGNMENT = re.compile(r"""^([A-Z][A-Z0-9_]*)=(["']?)(.*?)\2(?:\s|$)""", re.MULTILINE)
PLACEHOLDER = re.compile(r"\.\.\.|([A-Z]+=)?\$?[A-Z]{1,}|\w+=[A-Z]{2,}")
"""A word that the reader has to replace; no setting has a value in capitals, but for paths."""
PATHS = ("data_dir=", "out_dir=", "dataset.npz=", "resume=")
SETTINGS = ("run.py", "datasets.show")
"""The programs that take words of settings."""


@dataclass(frozen=True)
class Command:
    """A command of a page that begins with ``python``."""

    page: Path
    words: tuple[str, ...]
    """Those behind ``python``; without settings that the reader has to replace"""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"

    @property
    def program(self) -> str:
        """The file, or the module behind ``-m``."""
        return self.words[1] if self.words[0] == "-m" else self.words[0]

    @property
    def arguments(self) -> list[str]:
        return list(self.words[2 if self.words[0] == "-m" else 1 :])


def commands(pages: Sequence[Path]) -> list[Command]:
    """The different commands of the pages, in their order."""
    found = (Command(page, tuple(words)) for page in pages for line in _lines(page) if (words := _words(line)))
    return list({command.words: command for command in reversed(list(found))}.values())[::-1]


def _lines(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.findall(text):
        values = _values(text) | _values(block)
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                known = Template(part.strip()).safe_substitute(values)
                if known.startswith("python "):
                    yield known
    yield from INLINE.findall(BLOCK.sub("", text))


def _values(text: str) -> dict[str, str]:
    """What the shell's variables are, at last."""
    return {name: value for name, _, value in ASSIGNMENT.findall(text)}


def _words(line: str) -> list[str]:
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((place for place, word in enumerate(words) if word in (">", "|")), None)]
    if not set(words[:2]) & set(SETTINGS):
        return words
    return [word for word in words if word.startswith(PATHS) or not PLACEHOLDER.fullmatch(word)]


def run(command: Sequence[str], folder: Path, **variables: str) -> str:
    """Run a command in a folder, with the checkout of that folder or else this one, and return what it prints."""
    path = {"PYTHONPATH": str(folder if (folder / "run.py").exists() else ROOT)}
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | path | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout
