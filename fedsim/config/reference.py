"""``docs/configuration.md``, generated from ``configs/``: ``python -m fedsim.config.reference --write``.

Settings, defaults and comments are read from the YAML files. The description of a choice is the comment at the head of
its file, or else the docstring of the class or function that the file names. So nothing on that page is written twice.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedsim.config.composition import CONFIG_DIR, CONFIG_NAME, PLACEHOLDER
from fedsim.config.docstrings import documented
from fedsim.core.checkout import ROOT

PAGE = ROOT / "docs" / "configuration.md"
COMMAND = "python -m fedsim.config.reference --write"
FAMILY_MEMBER = "NAME"
"""The word that takes the place of ``PLACEHOLDER`` on the page."""
GLOBAL = "# @package _global_"
NOT_SHOWN = ("defaults", "hydra", "published.")
"""Beginnings of keys; the rows of a published table are no settings."""
TARGETS, STEPS = ("_target_", "server", "client"), ("steps.", "trackers.")
"""Entries of a choice that name classes and functions, and the beginnings of such entries of a split and a tracker."""
INTRODUCTION = f"""# Configuration

Every setting of a run, with its default. This page is made of the files in [configs](../configs) by
`{COMMAND}`; a test compares the two.

* `python run.py KEY=VALUE ...` changes settings: `python run.py rounds=10 lr=0.1`.
* `GROUP=CHOICE` chooses a file of `configs/GROUP`, and `GROUP.OPTION=VALUE` changes one of its options:
  `python run.py strategy=fedwon strategy.clip=0.05`. Options of other choices are refused.
* `-m` sweeps over values that are separated by commas: `python run.py -m strategy=fedavg,fedbn seed=0,1,2`.
* `python run.py --cfg job` prints all settings of a run, and every run directory has them in `config.yaml`.
* A path may begin with `~` and hold any character. Only a comma needs quotes of its own: `'data_dir="/a,b"'`.
* A wrong value is refused in one sentence, before anything starts.
* The command line wins over an experiment, an experiment over what a strategy sets, and that over the defaults.
"""


@dataclass(frozen=True)
class Entry:
    """A key of a YAML file."""

    key: str
    """The full name: the keys above it and its own, separated by dots"""
    value: str
    """The text in the file; empty for a key that has others under it"""
    comment: str

    def line(self) -> str:
        name = f"`{self.key}={self.value}`" if self.value else f"`{self.key}`"
        return f"{name}: {self.comment}" if self.comment else name


@dataclass(frozen=True)
class File:
    """A YAML file of ``configs/``."""

    comment: str
    """The comment at the head of the file"""
    is_global: bool
    """Whether its keys are relative to the whole configuration and not to its group"""
    chosen: list[Entry]
    """Its choices in other groups; the key of an entry is the group"""
    extended: list[str]
    """The files of its own group that it is based on"""
    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "File":
        text = path.read_text(encoding="utf-8").replace(PLACEHOLDER, FAMILY_MEMBER)
        lines = text.splitlines()
        head = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
        root = yaml.compose(text)
        chosen: list[Entry] = []
        extended: list[str] = []
        for node in next((value.value for key, value in root.value if key.value == "defaults"), []):
            if isinstance(node, yaml.ScalarNode):
                extended += [] if node.value == "_self_" else [node.value]
                continue
            for key, value in node.value:
                group = key.value.removeprefix("override ").removeprefix("/")
                chosen.append(Entry(group, _written(text, value), _behind(lines, value.end_mark)))
        return cls(
            comment=_comment(line for line in lines[:head] if line != GLOBAL),
            is_global=GLOBAL in lines[:head],
            chosen=[each for each in chosen if "/" not in each.key],
            extended=extended,
            entries=[each for each in _entries(root, text, head) if not each.key.startswith(NOT_SHOWN)],
        )


def _entries(node: Any, text: str, head: int, above: str = "") -> Iterator[Entry]:
    """Yield the keys of a mapping and of the mappings in it.

    The comment on a key stands behind its value or in the lines above the key. The first ``head`` lines are about the
    file.
    """
    lines = text.splitlines()
    for key, value in node.value:
        name = above + key.value
        first = key.start_mark.line
        while first > head and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        comment = _comment(lines[first : key.start_mark.line])
        if isinstance(value, yaml.ScalarNode) or value.flow_style:
            yield Entry(name, _written(text, value), comment or _behind(lines, value.end_mark))
            continue
        listed = isinstance(value, yaml.SequenceNode)
        items = f"[{','.join(_written(text, item) for item in value.value)}]" if listed else ""
        yield Entry(name, items, comment or _behind(lines, key.end_mark))
        if not listed:
            yield from _entries(value, text, head, f"{name}.")


def _written(text: str, node: Any) -> str:
    """Return a value in the form of the command line."""
    written = " ".join(text[node.start_mark.index : node.end_mark.index].split())
    return written.replace(", ", ",") if written[:1] in ("[", "{") else written or "null"


def _behind(lines: list[str], mark: Any) -> str:
    if mark.line >= len(lines):
        return ""
    rest = lines[mark.line][mark.column :].lstrip(": ")
    return _comment([rest]) if rest.startswith("#") else ""


def _comment(lines: Iterable[str]) -> str:
    """Return the text of comment lines, with links to other pages of ``docs/``."""
    text = " ".join(line.strip().lstrip("#").strip() for line in lines).replace("*", r"\*")
    return re.sub(r"\bdocs/([\w-]+\.md)", r"[\1](\1)", text)


def _what(group: str, choice: str, name: str) -> str:
    """Return the first paragraph of a docstring: the module's if it is about this choice alone, else the target's."""
    target = documented(name)
    title = f"``{group}={choice}``"
    for text in map(_first_paragraph, target.modules):
        if text.startswith(f"{title}: "):
            return _markdown(text.removeprefix(f"{title}: "))
        if target.is_class and text.casefold().startswith(target.name.casefold()):
            return _markdown(text)
    return _markdown(_first_paragraph(target.own).removeprefix(f"{title}: "))


def _first_paragraph(docstring: str) -> str:
    return " ".join(docstring.partition("\n\n")[0].split())


def _markdown(text: str) -> str:
    return re.sub(r":math:`([^`]*)`", r"$`\1`$", text).replace("``", "`")


def description(group: str, choice: str, path: Path) -> str:
    """Return what is said of a choice: the comment at the head of its file, or else a docstring.

    Of the two halves of a method, the first whose docstring begins with the method's name speaks for it, the server's
    before the client's; one that only refers to the default method, which it is equal to, is asked last.
    """
    file = File.read(path)
    named = [each.value for each in file.entries if _names_code(group, each.key, is_global=file.is_global)]
    if file.comment or not named:
        return file.comment
    texts = [_what(group, choice, name) for name in named]
    mine = [text for text in texts if letters(text).startswith(letters(choice))] or texts
    default = letters(default_of(group))
    told = [text for text in mine if choice == default or default not in letters(text)] or mine
    return told[0].replace("'s client (", " (")


def _names_code(group: str, key: str, *, is_global: bool) -> bool:
    """Return whether a key of a file of ``group`` names a class or function."""
    own = key.removeprefix(f"{group}.") if is_global else key
    return own in TARGETS or own.startswith(STEPS)


def letters(text: str) -> str:
    """Return the letters and digits of a text in lower case, by which names are compared."""
    return re.sub(r"\W|_", "", text).casefold()


def default_of(group: str) -> str:
    """Return the choice of a group that holds where the user makes none."""
    chosen = File.read(CONFIG_DIR / f"{CONFIG_NAME}.yaml").chosen
    return next((each.value for each in chosen if each.key == group), "null")


def groups(config_dir: Path = CONFIG_DIR) -> list[str]:
    """Return the folders of ``configs/``, in the order in which ``config.yaml`` chooses from them."""
    order = [each.key for each in File.read(config_dir / f"{CONFIG_NAME}.yaml").chosen]
    folders = sorted(path.name for path in config_dir.iterdir() if path.is_dir())
    return sorted(folders, key=lambda group: order.index(group) if group in order else len(order))


def choices(group: str, config_dir: Path = CONFIG_DIR) -> dict[str, Path]:
    """Return the files of a group by the value that is written after ``GROUP=``; families come last."""
    folder = config_dir / group
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    families = {f"{path.parent.name}/{FAMILY_MEMBER}": path for path in sorted(folder.glob(f"*/{PLACEHOLDER}.yaml"))}
    return {**files, **families}


def _choice(group: str, choice: str, file: File) -> Iterator[str]:
    """Yield the lines about one choice: what it is, what else it sets, and its options."""
    options = [
        Entry(each.key if file.is_global else f"{group}.{each.key}", each.value, each.comment) for each in file.entries
    ]
    own = {each.key.removeprefix(f"{group}."): each for each in options if each.key.startswith(f"{group}.")}
    named = {key: each.value for key, each in own.items() if key in TARGETS or key.startswith(STEPS)}
    if len(named) == 1:
        (target,) = named.values()
        yield f"* `{choice}`: {file.comment or _what(group, choice, target)}"
    else:
        yield f"* `{choice}`: {file.comment}" if file.comment else f"* `{choice}`"
        for half, target in named.items():
            told = "" if FAMILY_MEMBER in target else f": {_what(group, choice, target)}"
            yield f"  * {half}, `{target}`{told}"
    brought = [*file.chosen, *(each for each in options if each.value and each.key.partition(".")[0] != group)]
    words = " ".join(f"`{each.key}={each.value}`" for each in brought if not each.comment)
    if words or file.extended:
        based = "".join(f"all of `{name}`, " for name in file.extended)
        yield f"  * sets {based}{words}".rstrip(", ")
    yield from (f"  * sets {each.line()}" for each in brought if each.comment)
    structure = {"name", *named}
    yield from (f"  * {each.line()}" for key, each in own.items() if each.value and key not in structure)


def page(config_dir: Path = CONFIG_DIR) -> str:
    """Return the whole page."""
    config = File.read(config_dir / f"{CONFIG_NAME}.yaml")
    lines = [INTRODUCTION, "## Settings outside of groups", ""]
    lines += [f"{'  ' * each.key.count('.')}* {each.line()}" for each in config.entries]
    defaults = {each.key: each for each in config.chosen}
    for group in groups(config_dir):
        lines += ["", f"## `{group}`", ""]
        if group in defaults:
            default = defaults[group]
            about = [f"{default.comment[0].upper()}{default.comment[1:]}.", ""] if default.comment else []
            lines += [*about, f"Default: `{default.value}`.", ""]
        for choice, path in choices(group, config_dir).items():
            lines += _choice(group, choice, File.read(path))
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fedsim.config.reference", description="Makes that page.")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)} instead of printing it")
    options = parser.parse_args(arguments)
    if options.write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
