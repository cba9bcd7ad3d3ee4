"""The site: built as the pages say, whole, and without anything from a network."""

import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import ROOT
from tests.documents import DOCS, RESULTS, run

pytestmark = pytest.mark.nightly
FETCHED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
LINKED = re.compile(r"""\b(?:src|href)=["']?([^"'\s>]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="needs pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    said = run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)], ROOT, NO_MKDOCS_2_WARNING="1"
    )
    assert "WARNING" not in said
    return out


def test_it_has_every_page(site: Path) -> None:
    wanted = [page.relative_to(ROOT / "docs") for page in DOCS]
    wanted += [page.relative_to(ROOT).parent / "index.md" for page in [ROOT / "results" / "README.md", *RESULTS]]
    assert not [page for page in wanted if not (site / page.with_suffix(".html")).is_file()]


def test_nothing_is_fetched(site: Path) -> None:
    assert not [found for page in site.rglob("*.html") for found in FETCHED.findall(page.read_text(encoding="utf-8"))]


def test_every_link_inside_leads_to_a_file_and_a_place_in_it(site: Path) -> None:
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html") if page.name != "404.html"}
    broken = []
    for page, text in pages.items():
        for link in set(LINKED.findall(text)):
            parts = urlsplit(link.replace("&amp;", "&"))
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                broken.append((page.name, link))
            elif parts.fragment and target in pages and parts.fragment != "__skip":
                identifier = re.escape(unquote(parts.fragment))
                if not re.search(rf"""\b(?:id|name)=["']?{identifier}["'\s>]""", pages[target]):
                    broken.append((page.name, link))
    assert not broken


def test_the_reference_has_the_docstrings(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text(encoding="utf-8"))
    for name in ("simulate", "FedAvg", "LocalSGD", "use_group_norm", "Source", "Metric", "UserError"):
        assert name in text
    assert "Raises:" in text
    assert ":::" not in text


def test_the_search_finds_every_page(site: Path) -> None:
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    pages = {entry["location"].partition("#")[0] for entry in found}
    assert {page.with_suffix(".html").name for page in DOCS} <= pages
    assert (site / "search" / "search_index.js").is_file()  # the same as a script, for pages from the disk
