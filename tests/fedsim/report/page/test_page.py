"""The page of runs: a document of its own, with the sections that the runs have data for, and nothing fetched."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
from jsonschema import ValidationError

from fedsim.output.results import Result, find_runs, read_result
from fedsim.report.command import main
from fedsim.report.labels import group_by_settings
from fedsim.report.page.document import in_json
from fedsim.report.page.thinning import MOST_POINTS
from fedsim.report.page.writing import page, write_page
from tests.fedsim.report.page.conftest import data_in, sections_in, table_in

MakeRun = Callable[..., Path]
ALWAYS = ["run", "results", "convergence", "clients"]


def page_of(*run_dirs: Path) -> str:
    return page(group_by_settings(find_runs(list(run_dirs))))


def test_a_run_has_the_sections_that_it_has_data_for(rich_page: str, plain_page: str) -> None:
    assert sections_in(rich_page) == [
        *(*ALWAYS, "labels", "target", "classes", "predictors", "costs", "diagnostics", "faults", "settings")
    ]
    assert sections_in(plain_page) == [*ALWAYS, "labels", "target", "classes", "costs", "settings"]
    assert "shots" in data_in(rich_page)["figures"]
    assert "shots" not in data_in(plain_page)["figures"]
    for text in (rich_page, plain_page):
        assert re.findall(r'<a href="#(\w+)">', text) == sections_in(text)


def test_a_run_of_accuracies_alone_has_no_further_section(tmp_path: Path, make_run: MakeRun) -> None:
    run_dir = make_run(tmp_path / "run", accuracy={"plain": 0.5})
    text = page_of(run_dir)
    assert sections_in(text) == [*ALWAYS, "target", "costs", "settings"]
    (run_dir / "plots").mkdir()
    (run_dir / "plots" / "images.png").write_bytes(b"PNG")
    text = page_of(run_dir)
    assert sections_in(text) == [*ALWAYS, "target", "costs", "images", "settings"]
    assert '<img src="data:image/png;base64,UE5H" alt="Training images of each domain">' in text


def test_every_figure_has_its_table_and_its_place(rich_page: str, plain_page: str) -> None:
    for text in (rich_page, plain_page):
        data = data_in(text)
        assert re.findall(r'data-figure="(\w+)"', text) == list(data["figures"])
        assert {figure["data"] for figure in data["figures"].values()} == set(data["tables"])
        assert len(data["figures"]) >= 8


def test_every_figure_is_one_of_vega_lites_grammar(rich_page: str, plain_page: str) -> None:
    """Altair's own check, which a run does without."""
    for text in (rich_page, plain_page):
        for figure in data_in(text)["figures"].values():
            alt.Chart.from_dict(figure["spec"], validate=True)
    with pytest.raises(ValidationError):
        alt.Chart.from_dict({**figure["spec"], "height": "tall"}, validate=True)


def test_published_numbers_stand_beside_ours(tmp_path: Path, make_run: MakeRun) -> None:
    run_dir = make_run(tmp_path / "0", "experiment=fedwon_digits5", accuracy={"mnist": 0.97, "svhn": 0.77})
    text = page_of(run_dir)
    assert "published" in sections_in(text)
    table = data_in(text)["tables"]["published"]
    assert table["whose"]["levels"] == ["published", "ours"]
    pairs = list(zip(table["whose"]["codes"], table["head"]["codes"], table["value"], strict=True))
    svhn = table["head"]["levels"].index("svhn")
    assert (0, svhn, 77.4) in pairs
    assert (1, svhn, pytest.approx(77.0)) in pairs
    assert "FedWon (arXiv 2306.05879), Table 1, Digits-Five" in text


def test_the_numbers_of_one_run_are_those_of_the_terminal(tmp_path: Path, make_run: MakeRun) -> None:
    text = page_of(make_run(tmp_path / "run", accuracy={"plain": 0.812, "<i>": 0.5}))
    results = text.partition('<section id="results">')[2].partition("</section>")[0]
    heads = re.findall(
        r'<th scope="col" aria-sort="none"><button type="button"><bdi>(.*?)</bdi></button></th>', results
    )
    assert heads == ["whose", "plain", "&lt;i&gt;", "all"]
    rows = re.findall(r'<tr><th scope="row"><bdi>(.*?)</bdi></th>(.*?)</tr>', results)
    assert {name: re.findall("<td.*?>(.*?)</td>", cells) for name, cells in rows} == {
        "clients": ["81.2", "50.0", "65.6"],
        "clients, best round 2": ["81.2", "50.0", "65.6"],
        "global model": ["50.0", "50.0", "50.0"],
    }
    assert re.findall(r'data-value="([\d.]+)"', rows[0][1]) == ["81.2", "50.0", "65.6"]


def test_of_several_runs_there_are_means_deviations_and_the_settings_that_differ(
    tmp_path: Path, make_run: MakeRun
) -> None:
    for seed, accuracy in enumerate((0.5, 0.6)):
        make_run(tmp_path / str(seed), f"seed={seed}", accuracy={"plain": accuracy})
    make_run(tmp_path / "bn", "strategy=fedbn", "lr=0.2", accuracy={"plain": 0.9})
    text = page_of(tmp_path)
    results = text.partition('<section id="results">')[2].partition("</section>")[0]
    assert '<td data-value="55.0">55.0 ± 7.1</td>' in results.replace("55.00000000000001", "55.0")
    differ = text.partition("Settings that differ")[2].partition("</section>")[0]
    heads = re.findall(r"<bdi>(.*?)</bdi></button>", differ)
    assert heads[0] == "method"
    assert set(heads) >= {"seed", "lr", "strategy"}
    assert "rounds" not in heads
    assert len(re.findall(r'<th scope="row">', differ)) == 3


def test_what_users_name_cannot_end_an_element(tmp_path: Path, make_run: MakeRun) -> None:
    evil = "</script><script>alert(1)</script><!--"
    text = page_of(make_run(tmp_path / "run", "data_dir='<b>&'", accuracy={evil: 0.5, "plain": 0.4}))
    assert "alert(1)</script>" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "<b>" not in text
    assert text.count("</script>") == text.count("<script") == 3  # data, Vega, and the page's own
    assert (
        evil
        in data_in(text)["tables"]["domains" if "domains" in data_in(text)["tables"] else "last"]["domain"]["levels"]
    )
    assert in_json("<!--</script>") == '"\\u003c!--\\u003c/script>"'


def test_nothing_is_fetched(rich_page: str, plain_page: str) -> None:
    for text in (rich_page, plain_page):
        outside = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
        assert "http" not in outside.replace("http-equiv", "")
        fetching = r"<(?:script|link|img|iframe|source|object|embed|base)\b[^>]*>"
        tags = re.findall(fetching, outside) + re.findall("<script[^>]*>", text)
        assert not [tag for tag in tags if re.search(r"(src|href)\s*=\s*[\"']?(?!data:)", tag)]
        assert "default-src 'none'" in text
        assert "@import" not in text
        assert not re.search(r"url\(\s*[\"']?(?!data:)[a-z]", text.partition("</style>")[0])
        assert '"$schema"' not in in_json(data_in(text))
        assert len(text.encode()) < 2_000_000


def test_without_pictures_a_run_writes_its_texts_and_tables_alone(rich: Result, tmp_path: Path) -> None:
    text = (rich.run_dir / "report.html").read_text(encoding="utf-8")  # that run has pictures=false
    assert sections_in(text) == ["run", "results", "settings"]
    assert not (rich.run_dir / "plots").exists()
    assert "<figure>" not in text
    assert "<table" in text
    assert len(text) < 50_000
    write_page({"x": [rich]}, tmp_path)
    assert len((tmp_path / "report.html").read_text(encoding="utf-8")) > 500_000
    assert (tmp_path / "report.html").stat().st_mode == (rich.run_dir / "report.html").stat().st_mode


def test_a_run_that_has_not_ended_is_not_marked_as_ended(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep that goes on takes ``report.html`` for the end of a run."""
    run_dir = make_run(tmp_path / "run", accuracy={"plain": 0.5})
    assert main([str(run_dir)]) == 0
    assert not (run_dir / "report.html").exists()
    assert "holds a run that has not ended" in capsys.readouterr().out
    assert main([str(run_dir), "--out", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / "report.html").is_file()


def test_older_runs_without_the_newer_tables_have_a_page(rich: Result, tmp_path: Path) -> None:
    for name in ("clients.csv", "rounds.csv", "summary.json", "config.yaml"):
        (tmp_path / name).write_bytes((rich.run_dir / name).read_bytes())
    text = page({"x": [read_result(tmp_path)]})
    assert {"labels", "diagnostics"}.isdisjoint(sections_in(text))


@pytest.mark.nightly
def test_rounds_that_are_left_out_are_told(rich: Result) -> None:
    rounds = pd.concat([rich.rounds.assign(round=rich.rounds["round"] + 3 * number) for number in range(3000)])
    text = page({"x": [replace(rich, rounds=rounds)]})
    curves = table_in(data_in(text), "curves")
    assert curves["round"].nunique() == 9000  # a single curve of these fits
    domains = table_in(data_in(text), "domains")
    drawn = domains["round"].nunique()
    assert drawn * len(domains[["whose", "domain"]].drop_duplicates()) <= MOST_POINTS
    assert f"<p>{drawn} of 9000 rounds are drawn.</p>" in text
