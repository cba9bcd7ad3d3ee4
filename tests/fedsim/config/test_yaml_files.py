"""YAML files whose aliases, nesting or kind would cost a run its memory or end it with a traceback."""

import random
import shutil
from pathlib import Path

import pytest

from fedsim.config.composition import CONFIG_DIR, compose, load
from fedsim.config.yaml_files import MOST, read_yaml
from fedsim.core.errors import UserError
from tests import harms

LAUGHS = rf"its aliases repeat more than {MOST} values"


def test_aliases_mean_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {b: 1, c: [2, 3]}\nd: *a\ne: {<<: *a, f: 4}\n")
    assert read_yaml(tmp_path / "a.yaml") == {
        "a": {"b": 1, "c": [2, 3]},
        "d": {"b": 1, "c": [2, 3]},
        "e": {"b": 1, "c": [2, 3], "f": 4},
    }


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_has_no_settings(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml") == {}


def test_ten_billion_values_in_ten_lines_are_not_made(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("")
    harms.laughing(file, random.Random(0))
    with pytest.raises(UserError, match=rf"^{file} cannot be read \({LAUGHS}\)"):
        load(tmp_path)
    with pytest.raises(UserError, match=rf"^{file} cannot be read \({LAUGHS}\)"):
        compose([], tmp_path)
    file.write_text("a: &a [*a]")
    with pytest.raises(UserError, match=LAUGHS):
        load(tmp_path)


def test_a_file_of_a_group_is_counted_too(tmp_path: Path) -> None:
    config_dir = Path(shutil.copytree(CONFIG_DIR, tmp_path / "configs"))
    harms.laughing(config_dir / "norm" / "bn.yaml", random.Random(0))
    with pytest.raises(UserError, match=rf"^{config_dir / 'norm' / 'bn.yaml'} cannot be read \({LAUGHS}\)"):
        compose(["strategy=fedbn"], config_dir)


@pytest.mark.parametrize(
    "text", ["a: [", "[" * 9999, "[1]", "7", "a: 1\na: 2", "\x00", "hydra: 5", "a: ${b}", "a: ${a}"]
)
def test_a_configuration_of_ones_own_that_is_damaged_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        compose([], tmp_path, "mine")
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_configuration_of_other_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=rf"^{tmp_path / 'mine.yaml'} cannot be read \("):
        compose([], tmp_path, "mine")
