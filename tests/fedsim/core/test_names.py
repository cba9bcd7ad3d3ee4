"""Folders of any name, through the whole chain: run, tables, pictures, page, resume, comparison, show."""

import csv
import json
import math
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets.build import build_federation
from datasets.shots import SHOTS
from datasets.source import Source
from fedsim import simulate
from fedsim.app.show_data import main as show
from fedsim.config.composition import compose, load
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.names import find_name, readable, title
from fedsim.output.progress import Reporter
from fedsim.output.results import Result, read_result
from fedsim.report.command import main as report
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run as play

WORDS = (
    *("NA", "None", "nan", "null", "inf", "1e5", "007", "true", "1_000", "-", "2019"),
    *("mixed", "(mixed)", "mean", "std", "global", "globe", "all", "validation", "test", "train", "round", "seed"),
    *("many", "global few", "accuracy", "final", "best", "label", "domain", "client", "entropy", "x (left out)"),
    *('"mean"', "mean, adapted", "[bold]", ":cat:", "$x_1^2$", "$", "_hidden_", "a_b", "back\\slash", "a.b"),
    *("<b>&amp;\"'", "comma, semi; colon:", "=1+1", "@x", "a|b", "`x`", "[a](b)", "~x~", "{}", "%s", "#1", "${seed}"),
    *("case", "Case", "עברית", "é", "中文", "🐈", "👨\u200d👩\u200d👧", "q" * 120),
)
"""Shown as they are."""
WRITTEN_OUT = {
    " space ": "' space '",
    "\t": "\\t",
    "line\nbreak": "line\\nbreak",
    "carriage\rreturn": "carriage\\rreturn",
    "\x1b[31mred": "\\x1b[31mred",
    "line\u2028separator": "line\\u2028separator",
    "\u202egnp": "\\u202egnp",
    "u\u0308ber": "über",
    "\u3000": "'\u3000'",
    os.fsdecode(b"caf\xe9"): "caf\\xe9",
}
"""Shown as something else."""
NAMES = {**dict(zip(WORDS, WORDS, strict=True)), **WRITTEN_OUT}
IMAGES = 3
"""Of each of a domain's two classes; of the six, two are for the test."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every name is a domain, and a class of that domain beside one that all have."""
    root = tmp_path_factory.mktemp("folder") / "data"
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    for domain in NAMES:
        for each in (domain, "common"):
            (root / domain / each).mkdir(parents=True)
            for number in range(IMAGES):
                image.save(root / domain / each / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def overrides(folder: Path) -> list[str]:
    return ["dataset=imagefolder", f"data_dir={folder}", "dataset.image_size=16", "device=cpu"]


@pytest.fixture(scope="module")
def run(folder: Path, overrides: list[str]) -> Result:
    out = folder.parent / "run"
    return simulate(*overrides, "rounds=1", "local_epochs=1", "engine=inline", f"out_dir={out}", progress=False)


@pytest.mark.nightly
def test_every_table_has_every_name(run: Result) -> None:
    with (run.run_dir / "clients.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["round"] == "1"]
    assert sorted(row["domain"] for row in rows) == sorted(NAMES.values())
    assert {int(row["num_examples"]) for row in rows} == {math.ceil(0.2 * 2 * IMAGES)}  # its own images alone
    assert set(run.clients["domain"]) == set(NAMES.values())
    assert set(read_result(run.run_dir).classes["class"]) == {*NAMES.values(), "common"}
    final = json.loads((run.run_dir / "summary.json").read_text(encoding="utf-8"))["final"]
    assert final["domain_accuracy"].keys() == final["client_domain_accuracy"].keys() == set(NAMES.values())
    by_domain = run.clients[run.clients["round"] == 1].set_index("domain")["accuracy"]
    assert final["client_domain_accuracy"] == pytest.approx(by_domain.to_dict())
    assert final["global_accuracy"] == pytest.approx(np.mean(list(final["domain_accuracy"].values())))


def test_every_name_is_drawn(run: Result) -> None:
    drawn = {path.name for path in (run.run_dir / "plots").iterdir()}
    assert {"accuracy.png", "clients.png", "classes.png", "labels.png", "longtail.png", "images.png"} == drawn


class Cells(HTMLParser):
    """The heads of the columns of each section of a page, and whether each element is closed."""

    VOID = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.heads: dict[str, list[str]] = {}
        self.section = ""
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.section = str(dict(attrs)["id"])
        if tag == "bdi" and "thead" in self.open:
            self.heads.setdefault(self.section, []).append("")
        if tag == "img":
            self.sources.append(str(dict(attrs)["src"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "bdi" in self.open and "thead" in self.open:
            self.heads[self.section][-1] += data


def test_the_page_shows_every_name_as_it_is(run: Result) -> None:
    page = Cells()
    page.feed((run.run_dir / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    whole, *heads = page.heads["results"]
    assert whole == "whose"
    assert sorted(heads) == sorted(
        [*map(title, NAMES.values()), "all", *(shot for shot in SHOTS if shot in run.summary["final"])]
    )
    (source,) = page.sources
    assert source.startswith("data:image/png;base64,")


@pytest.mark.nightly
def test_a_resumed_run_reads_back_what_it_wrote(run: Result) -> None:
    tables = {name: (run.run_dir / name).read_bytes() for name in ("clients.csv", "rounds.csv", "classes.csv")}
    settings = Settings.from_config({**load(run.run_dir), "resume": str(run.run_dir)})
    again = play(prepare(settings), run.run_dir, Reporter())
    assert {name: (run.run_dir / name).read_bytes() for name in tables} == tables
    assert again.summary["final"] == run.summary["final"]


def test_a_comparison_has_a_column_for_every_name_and_total(
    run: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report([str(run.run_dir), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert [name for name in map(title, NAMES.values()) if name not in printed] == []
    with (tmp_path / "comparison.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["domain"]: float(row["mean"]) for row in csv.DictReader(file)}
    expected = {title(name): 100 * value for name, value in run.summary["final"]["client_domain_accuracy"].items()}
    final = run.summary["final"]
    totals = {"mean": "client_accuracy_mean", "global": "global_accuracy"}
    expected |= {name: 100 * final[metric] for name, metric in totals.items()}
    expected |= {f"global {shot}": 100 * final[shot] for shot in ("many", "medium", "few") if shot in final}
    assert rows == pytest.approx(expected)
    lines = (tmp_path / "comparison.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    borders = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines]
    assert set(borders) == {len(expected) + 2}


def test_show_tells_domains_classes_and_its_own_columns_apart(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show([*overrides, f"out_dir={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in NAMES.values() if name not in printed] == []
    table = pd.read_csv(tmp_path / "federation.csv", keep_default_na=False, dtype={"domain": str})
    assert set(table["domain"]) == set(NAMES.values())
    assert not table.columns.duplicated().any()
    assert {f"train.{name}" for name in NAMES.values()} <= set(table.columns)


def federation_of(overrides: list[str]) -> Source:
    return build_federation(Settings.from_config(compose(overrides))).source


def test_a_domain_called_mixed_is_not_a_mixed_client(overrides: list[str]) -> None:
    chosen = [*overrides, 'dataset.domains=["mixed","NA"]']
    by_domain = prepare(Settings.from_config(compose(chosen))).federation
    assert [by_domain.domain_of(client) for client in by_domain.clients] == ["mixed", "NA"]
    assert [by_domain.test_domains(client) for client in by_domain.clients] == [("mixed",), ("NA",)]
    together = build_federation(Settings.from_config(compose([*chosen, "split=iid", "split.num_clients=2"])))
    assert [together.domain_of(client) for client in together.clients] == ["(mixed)", "(mixed)"]
    assert together.test_domains(0) == ("mixed", "NA")
    others = build_federation(
        Settings.from_config(compose([*overrides, 'dataset.domains=["NA","nan"]', "split=iid", "split.num_clients=2"]))
    )
    assert others.domain_of(0) == "mixed"


@pytest.mark.parametrize(
    ("words", "domains"),
    [
        (['dataset.domains=["007","null"]'], ("007", "null")),
        (["dataset.domains=[2019,NA]"], ("2019", "NA")),
        (['dataset.domains=["u\u0308ber","é"]'], ("über", "é")),
        (['dataset.domains=["über","e\u0301"]'], ("über", "é")),
        (["dataset.domains=[007]"], ("007",)),
    ],
)
def test_names_on_the_command_line(overrides: list[str], words: list[str], domains: tuple[str, ...]) -> None:
    assert federation_of([*overrides, *words]).domain_names == domains


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("dataset.domains=[null,NA]", r"dataset.domains=\[None, 'NA'\] is not possible: .* '\[\"007\",\"null\"\]'\."),
        ("dataset.domains=[1e5]", r"dataset.domains=\[100000.0\] is not possible: .* into quotes"),
        ("dataset.domains=[1_000]", r"the domain 1000 is not there: .* needs quotes"),
        ("split.leave_out=[null]", r"split.leave_out=\[None\] is not possible: .* into quotes"),
        ("split.leave_out=true", r"split.leave_out=True is not possible: .* into quotes"),
    ],
)
def test_what_yaml_takes_for_something_else_is_refused_with_the_way_to_write_it(
    overrides: list[str], words: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        federation_of([*overrides, words])


@pytest.mark.parametrize("written", ['"007"', '"null"', '"1e5"', '"true"', "NA", "mixed", "2019"])
def test_a_name_can_be_left_out(overrides: list[str], written: str) -> None:
    federation = build_federation(Settings.from_config(compose([*overrides, f"split.leave_out=[{written}]"])))
    assert list(federation.unseen_tests) == [written.strip('"')]


def test_names_that_read_alike_are_refused(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
    for name in ("é", "e\u0301"):
        (tmp_path / name / "cat").mkdir(parents=True)
        for number in range(2):
            image.save(tmp_path / name / "cat" / f"{number}.png")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system composes letters itself")
    with pytest.raises(UserError, match="two domains are called é"):
        federation_of(["dataset=imagefolder", f"data_dir={tmp_path}"])


def test_one_class_stored_by_two_systems_is_one_class(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
    for domain, name in (("linux", "é"), ("mac", "e\u0301"), ("linux", "a"), ("mac", "a")):
        (tmp_path / domain / name).mkdir(parents=True)
        for number in range(4):
            image.save(tmp_path / domain / name / f"{number}.png")
    assert federation_of(["dataset=imagefolder", f"data_dir={tmp_path}"]).class_names == ("a", "é")


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_a_name_is_shown_once_and_found_again(name: str, shown: str) -> None:
    assert readable(name) == shown
    assert readable(shown) == shown
    assert find_name(name, [readable(each) for each in NAMES]) == shown
    shown.encode("utf-8")


def test_no_title_of_a_domain_is_another_columns() -> None:
    titles = [title(name) for name in NAMES.values()]
    assert len(set(titles)) == len(titles)
    assert not {"mean", "global", "all", "validation", "many", "global few", "x (left out)"} & set(titles)


@pytest.mark.nightly
def test_what_the_terminal_cannot_encode_is_written_out(
    run: Result, tmp_path: Path, make_ascii: Callable[[], Path]
) -> None:
    written = make_ascii()
    assert report([str(run.run_dir), "--out", str(tmp_path)]) == 0
    assert "\\u4e2d\\u6587" in written.read_text(encoding="ascii")


@pytest.fixture
def make_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Makes standard output a file that takes nothing but ASCII."""

    def make() -> Path:
        path = tmp_path / "stdout.txt"
        monkeypatch.setattr("sys.stdout", path.open("w", encoding="ascii", buffering=1))
        return path

    return make
