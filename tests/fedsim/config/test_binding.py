"""Objects from configuration groups: who gets which option, and what nobody takes."""

from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from fedsim.config.binding import bind, instantiate, refuse_unused_options, target_of
from fedsim.core.errors import UserError


@dataclass
class Pair:
    """What ``_target_`` names below."""

    left: Any
    right: Any = "nothing"
    count: int = 0
    share: float | None = None


PAIR = {"name": "pair", "_target_": "fedsim.config.binding.Pair"}


@pytest.fixture(autouse=True)
def _pair_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fedsim.config.binding.Pair", Pair, raising=False
    )  # a test module has no dotted name of its own


def test_options_arguments_and_keywords_reach_the_target() -> None:
    assert instantiate("group", {**PAIR, "right": [1, 2]}, "first") == Pair("first", [1, 2])
    assert instantiate("group", {"_target_": "fedsim.config.binding.Pair"}, left=3) == Pair(3)


@pytest.mark.parametrize("name", ["pair", None])
def test_an_unknown_option_is_named_with_its_value(name: str | None) -> None:
    group = {"_target_": "fedsim.config.binding.Pair", "middle": 5} | ({"name": name} if name else {})
    owner = name or "fedsim.config.binding.Pair"
    with pytest.raises(UserError, match=rf"^group\.middle=5 is not an option of {owner}: leave it out\.$"):
        instantiate("group", group, 1)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("count", "abc", "a whole number"),
        ("count", 1.5, "a whole number"),
        ("count", True, "a whole number"),
        ("count", None, "a whole number"),
        ("share", "abc", "a number or null"),
        ("share", False, "a number or null"),
    ],
)
def test_an_option_of_another_type_is_refused(option: str, value: object, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"^group\.{option}={value} is not possible: choose {allowed}\.$"):
        instantiate("group", {**PAIR, option: value}, 1)
    with pytest.raises(UserError, match=rf"choose {allowed}\.$"):
        target_of("group", {**PAIR, option: value})


def test_numbers_and_null_fit_where_they_are_asked_for() -> None:
    assert instantiate("group", {**PAIR, "count": 3, "share": 2}, 1) == Pair(1, count=3, share=2)
    assert instantiate("group", {**PAIR, "share": None}, 1) == Pair(1)


@pytest.mark.parametrize(
    ("key", "value"), [("_target_", "no.such.thing"), ("_target_", "fedsim.nothing"), ("_target_", 3)]
)
def test_a_target_that_is_not_there_is_one_sentence(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^group\.{key}={value} .*: choose .*class or function\.$") as raised:
        instantiate("group", {key: value})
    assert "\n" not in str(raised.value)


def left_of(left: int, *, share: float) -> tuple[int, float]:
    return left, share


def test_of_a_group_that_several_share_each_takes_what_it_names() -> None:
    shared = {"name": "several", "share": 2, "middle": 5}
    assert bind("group", shared, left_of, 1) == (1, 2)
    assert bind("group", {**shared, "left": 3}, left_of, 1) == (1, 2)  # what is handed over is no option
    with pytest.raises(UserError, match=r"^group\.share=abc is not possible: choose a number\.$"):
        bind("group", {"share": "abc"}, left_of, 1)


def test_what_none_of_several_takes_is_refused() -> None:
    refuse_unused_options("group", {"name": "several", "share": 2, "count": 5}, [left_of, Pair], ["name"])
    with pytest.raises(UserError, match=r"^group\.middle=5 is not an option of several: leave it out\.$"):
        refuse_unused_options("group", {"name": "several", "share": 2, "middle": 5}, [left_of, Pair], ["name"])


def test_an_option_that_the_simulator_sets_itself_is_refused() -> None:
    group = {"name": "cnn_small", "_target_": "fedsim.models.CNNSmall", "num_classes": 3}
    with pytest.raises(UserError, match=r"^model\.num_classes=3 is not an option of cnn_small"):
        instantiate("model", group, num_classes=10)
    with pytest.raises(UserError, match=r"^norm\.model=3 is not an option of gn"):
        instantiate("norm", {"name": "gn", "_target_": "fedsim.norms.use_group_norm", "model": 3}, nn.Identity())
