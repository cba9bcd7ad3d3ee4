"""Docstrings of classes and functions by dotted name, read from the source files of the checkout.

Nothing is imported for that, so that a list of choices is there in a moment. A class or function that stands outside of
the checkout's folders is imported instead.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

from fedsim.core.checkout import FOLDERS, ROOT

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Documented:
    """A class or function with the docstrings that may say what it is."""

    name: str
    is_class: bool
    modules: tuple[str, ...]
    """The docstrings of the module that its dotted name begins with and of the one that defines it"""
    own: str
    """Its own docstring; that of a base class if it has none"""


def documented(name: str) -> Documented:
    """Return the docstrings of the class or function with that dotted name.

    Raises:
        ImportError: If there is none.
        AttributeError: If its module lacks it.
    """
    parent, _, last = name.rpartition(".")
    if _file(parent) is None:
        return _imported(name)
    defined, node = _definition(parent, last)
    return Documented(
        name=last,
        is_class=isinstance(node, ast.ClassDef),
        modules=(_doc(_tree(parent)), _doc(_tree(defined))),
        own=_own(defined, node),
    )


def _imported(name: str) -> Documented:
    target = resolve_name(name)
    modules = (name.rpartition(".")[0], target.__module__)
    docs = tuple(inspect.getdoc(resolve_name(each)) or "" for each in modules)
    return Documented(target.__name__, inspect.isclass(target), docs, inspect.getdoc(target) or "")


def _file(module: str) -> Path | None:
    """Return the source file of a module of the checkout; ``None`` for any other."""
    if module.partition(".")[0] not in ("fedsim", *FOLDERS):
        return None
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    if file is None:
        raise ImportError(f"no module named {module} is in {ROOT}")
    return ast.parse(file.read_text(encoding="utf-8"))


def _definition(module: str, name: str) -> tuple[str, Definition | ast.Assign]:
    """Return the module that defines what ``module`` calls ``name``, and the definition."""
    for node in _tree(module).body:
        if isinstance(node, Definition) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
            return module, node
    for source, original, known_as in _imports(module):
        if known_as == name and _file(source) is not None:
            return _definition(source, original)
    raise AttributeError(f"{module} does not define {name}")


def _imports(module: str) -> Iterator[tuple[str, str, str]]:
    """Yield what a module imports by ``from``: the other module, the name there, and the name here."""
    file = _file(module)
    package = module if file is not None and file.name == "__init__.py" else module.rpartition(".")[0]
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((source, each.name, each.asname or each.name) for each in node.names)


def _own(module: str, node: Definition | ast.Assign) -> str:
    if isinstance(node, ast.Assign):  # what a call returns, such as a partial function
        return ""
    own = _doc(node)
    if own or not isinstance(node, ast.ClassDef):
        return own
    for base in node.bases:
        try:
            inherited = _own(*_definition(module, ast.unparse(base)))
        except AttributeError:  # of another package
            continue
        if inherited:
            return inherited
    return ""


def _doc(node: ast.Module | Definition) -> str:
    return ast.get_docstring(node) or ""
