"""``docs/configuration.md`` is what ``fedsim/config/reference.py`` makes of ``configs/``, and leaves nothing out."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedsim.config.composition import CONFIG_DIR
from fedsim.config.reference import COMMAND, PAGE, Entry, File, page

TEXT = PAGE.read_text(encoding="utf-8")
NO_OPTIONS = ("split.steps", "tracker.trackers", "published")
FILES = sorted(CONFIG_DIR.glob("*/**/*.yaml"))


def section(group: str) -> str:
    return TEXT.partition(f"\n## `{group}`\n")[2].partition("\n## ")[0]


def leaves(options: dict[str, Any], above: str) -> dict[str, Any]:
    """The options by their dotted names; ``NO_OPTIONS`` and the names of classes are none."""
    found = {}
    for key, value in options.items():
        if key in ("name", "_target_", "server", "client", "defaults", "hydra") or f"{above}{key}" in NO_OPTIONS:
            continue
        found |= leaves(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return found


def test_the_page_is_what_the_program_makes_of_the_tree() -> None:
    assert page() == TEXT, f"docs/configuration.md is not that of this tree: run {COMMAND}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIG_DIR)))
def test_every_choice_and_option_is_named_in_the_section_of_its_group(path: Path) -> None:
    group, *family = path.relative_to(CONFIG_DIR).parent.parts
    choice = f"{family[0]}/NAME" if family else path.stem
    after = f"\n{section(group)}".partition(f"\n* `{choice}`")[2]
    assert after
    mine = after.partition("\n* ")[0]
    assert len(mine.split()) > 3, "nothing says what it is"
    text = path.read_text(encoding="utf-8")
    for name in leaves(yaml.safe_load(text), "" if "@package _global_" in text else f"{group}."):
        assert f"`{name}=" in mine


def test_every_setting_has_its_default() -> None:
    config = yaml.safe_load((CONFIG_DIR / "config.yaml").read_text(encoding="utf-8"))
    settings = TEXT.partition("\n## Settings outside of groups\n")[2].partition("\n## ")[0]
    words = [line.split("`")[1].partition("=") for line in settings.splitlines() if line]
    written = {name: yaml.safe_load(value) for name, equals, value in words if equals}
    assert leaves(written, "") == leaves(config, "")
    defaults = {
        group: choice for each in config["defaults"] if isinstance(each, dict) for group, choice in each.items()
    }
    for group in (path.name for path in CONFIG_DIR.iterdir() if path.is_dir()):
        choice = defaults[group]
        assert f"Default: `{'null' if choice is None else choice}`." in section(group)


def test_comments_and_docstrings_are_told_where_they_belong() -> None:
    assert "\n* `rounds=60`: rounds of training; round 0 is the model before it\n" in TEXT
    assert "\n  * `strategy.mu=0.01`: weight of the proximal term; 0 is fedavg\n" in section("strategy")
    assert "\n* `gn`: Group Normalization (Wu & He 2018, arXiv 1803.08494)" in section("norm")
    assert "\n* `median`: The median of each entry over the clients (Yin et al., ICML 2018" in section("aggregation")
    assert "\n  * sets `norm=sws`\n" in section("strategy")
    assert "\n* `torchvision/NAME`: any of torchvision's classification networks" in section("model")
    assert "lr=0.03" in section("experiment")


def test_values_are_read_as_written_and_comments_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(
        "# of the file\na:    # of a\n  - x\n  - y\nb:\n  c: {d: 1, e: [2, 3]}  # of c\n"
        '  # of f,\n  # in two lines\n  f: 1e-4\ng:\nh: "x # y"  # see docs/data.md\n'
    )
    file = File.read(path)
    assert file.comment == "of the file"
    assert file.entries == [
        Entry("a", "[x,y]", "of a"),
        Entry("b", "", ""),
        Entry("b.c", "{d: 1,e: [2,3]}", "of c"),
        Entry("b.f", "1e-4", "of f, in two lines"),
        Entry("g", "null", ""),
        Entry("h", '"x # y"', "see [data.md](data.md)"),
    ]
