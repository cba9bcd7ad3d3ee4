"""The page of a run: a document of its own, with settings, numbers and the pictures inside."""

import base64
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.report.page import write_html

MakeRun = Callable[..., Path]


@pytest.fixture
def page(tmp_path: Path, make_run: MakeRun) -> str:
    run_dir = make_run(tmp_path / "run", "data_dir='<b>&'", accuracy={"plain": 0.812, "<i>": 0.5})
    (run_dir / "plots").mkdir()
    for name in ("zebra", "clients", "accuracy"):
        (run_dir / "plots" / f"{name}.png").write_bytes(name.encode())
    write_html(run_dir)
    return (run_dir / "report.html").read_text(encoding="utf-8")


def test_it_is_a_page_of_its_own(page: str) -> None:
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "<title>fedavg on digits</title>" in page
    assert "<h1>fedavg on digits</h1>" in page
    assert 'src="plots' not in page


def test_the_numbers_are_a_table(page: str) -> None:
    heads = re.findall(r'<th scope="col"><bdi>(.*?)</bdi></th>', page)
    assert heads == ["plain", "&lt;i&gt;", "all"]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page)
    assert {name: re.findall("<td>(.*?)</td>", cells) for name, cells in rows} == {
        "clients": ["81.2", "50.0", "65.6"],
        "clients, best round 2": ["81.2", "50.0", "65.6"],
        "global model": ["50.0", "50.0", "50.0"],
    }


def test_the_settings_are_shown_as_they_are(page: str) -> None:
    assert "local_epochs: 1" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page


def test_the_pictures_are_inside_in_the_order_of_the_page(page: str) -> None:
    data = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(each).decode() for each in data] == ["accuracy", "clients", "zebra"]
    assert page.index("<h2>Accuracy over rounds</h2>") < page.index("<h2>Accuracy of each client</h2>")
