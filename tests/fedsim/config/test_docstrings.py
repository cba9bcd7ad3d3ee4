"""Docstrings read from source files are those that Python has of the imported objects."""

import inspect
from collections import OrderedDict
from pathlib import Path
from pkgutil import resolve_name

import pytest

from fedsim.config.docstrings import Documented, documented


@pytest.mark.parametrize(
    "name",
    [
        "strategies.Scaffold",  # by a relative import
        "clients.LocalSGD",  # by an absolute one
        "fedsim.norms.use_group_norm",
        "datasets.digits.load",
        "datasets.splits.dirichlet.Dirichlet",
        "strategies.fedyogi.FedYogi",
    ],
)
def test_it_is_the_same_as_after_an_import(name: str) -> None:
    found, target = documented(name), resolve_name(name)
    assert found.own == inspect.getdoc(target)
    assert found.is_class == inspect.isclass(target)
    assert found.modules[1] == inspect.getdoc(resolve_name(target.__module__))


def test_a_class_without_a_docstring_has_that_of_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is found through the imports of its module, relative and under another name."""
    (tmp_path / "clients" / "room").mkdir(parents=True)
    (tmp_path / "clients" / "room" / "base.py").write_text('class Base(dict):\n    """Does it."""\n')
    text = '"""Of the room."""\nfrom .base import Base as Above\n\n\nclass Below(Above, list):\n    pass\n'
    (tmp_path / "clients" / "room" / "__init__.py").write_text(text)
    monkeypatch.setattr("fedsim.config.docstrings.ROOT", tmp_path)
    assert documented("clients.room.Below") == Documented("Below", True, ("Of the room.",) * 2, "Does it.")


def test_what_stands_elsewhere_is_imported() -> None:
    assert documented("collections.OrderedDict").own == inspect.getdoc(OrderedDict)


def test_what_is_assigned_has_the_docstring_of_its_module() -> None:
    found = documented("datasets.cifar10.load")
    assert found.own == ""
    assert found.modules[0].startswith("``dataset=cifar10``: ")


@pytest.mark.parametrize("name", ["strategies.Nothing", "fedsim.norms.nothing"])
def test_what_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(AttributeError, match="does not define"):
        documented(name)
