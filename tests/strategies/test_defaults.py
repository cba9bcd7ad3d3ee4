"""A method that is made in Python does by default what its configuration says."""

import inspect

import pytest

from fedsim.methods.method import Method
from tests.conftest import small_settings
from tests.methods import METHODS

OFF_UNLESS_ASKED_FOR = {"fdse": {"clip_norm"}, "fedwon": {"clip_classifier"}}
"""What the configuration adds to the method of the paper"""


@pytest.mark.parametrize("name", METHODS)
def test_the_defaults_of_both_classes_are_those_of_the_file(name: str) -> None:
    options = small_settings(f"strategy={name}").strategy
    method = Method.of(options)
    for half in (method.server, method.client):
        parameters = inspect.signature(half).parameters.values()
        defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
        for option in defaults.keys() & options.keys() - OFF_UNLESS_ASKED_FOR.get(name, set()):
            value = defaults[option]
            assert (list(value) if isinstance(value, tuple) else value) == options[option], option
