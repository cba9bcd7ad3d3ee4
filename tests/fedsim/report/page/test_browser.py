"""The page in a browser, Debian's Chromium: it draws every figure, fetches nothing, and answers to the reader."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.fedsim.report.page.conftest import data_in, table_in

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
MARKS = """
return Object.fromEntries([...document.querySelectorAll(".chart")].map(place => {
  const canvas = place.querySelector("canvas");
  if (!canvas) return [place.dataset.figure, place.querySelectorAll(
    ".role-mark.mark-line path, .role-mark.mark-rect path, .role-mark.mark-symbol path").length];
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return [place.dataset.figure, pixels.filter((value, place) => place % 4 === 3 && value > 0).length];
}));
"""
"""By figure the number of its marks, or of the pixels that are drawn on"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for path in map(shutil.which, names) if path is not None), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no Chromium with its chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, rich_page: str, plain_page: str) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = {"rich": folder / "rich.html", "plain": folder / "plain.html"}
    for path, text in zip(paths.values(), (rich_page, plain_page), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def show(browser: webdriver.Chrome, path: Path, width: int = 1280, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    asked = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", asked)
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # forget those of the page before
    browser.get(path.as_uri())
    WebDriverWait(browser, 120).until(lambda _: browser.execute_script("return document.body.dataset.drawn") == scheme)


def fetched(browser: webdriver.Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("data:", "blob:"))]


def texts(browser: webdriver.Chrome, figure: str) -> list[str]:
    selector = f"[data-figure={figure}] .mark-text.role-mark text"
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)", selector
    )
    return found


def choose(browser: webdriver.Chrome, figure: str, number: int, value: Any) -> None:
    """Set the n-th input above a figure, and wait for the figure."""
    script = """
    const [figure, number, value, done] = arguments;
    const input = document.querySelector(`[data-figure=${figure}]`).previousElementSibling
      .querySelectorAll("input, select")[number];
    input.value = value;
    input.dispatchEvent(new Event("input", {bubbles: true}));
    input.dispatchEvent(new Event("change", {bubbles: true}));
    setTimeout(done, 300);
    """
    browser.execute_async_script(script, figure, number, value)


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", ["rich", "plain"])
def test_every_figure_is_drawn_and_nothing_is_fetched(
    browser: webdriver.Chrome, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    show(browser, pages[name], width, scheme)
    assert browser.get_log("browser") == []
    assert fetched(browser) == [pages[name].as_uri()]
    marks = browser.execute_script(MARKS)
    assert set(marks) == set(data_in(pages[name].read_text(encoding="utf-8"))["figures"])
    assert {figure for figure, count in marks.items() if count < 1} == set()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_click_on_a_head_sorts_the_rows(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["plain"])
    table = browser.find_element(By.CSS_SELECTOR, "#results table")
    head = table.find_elements(By.TAG_NAME, "th")[1]

    def shown() -> list[float]:
        cells = table.find_elements(By.CSS_SELECTOR, "tbody tr td:nth-child(2)")
        return [float(cell.text.partition(" ")[0]) for cell in cells]

    before = shown()
    assert before[0] != before[1]  # else it would look the same
    for state, order in (("descending", sorted(before, reverse=True)), ("ascending", sorted(before))):
        head.find_element(By.TAG_NAME, "button").click()
        assert head.get_attribute("aria-sort") == state
        assert shown() == order
    others = {each.get_attribute("aria-sort") for each in table.find_elements(By.CSS_SELECTOR, "thead th")[2:]}
    assert others == {"none"}


def test_the_target_is_computed_from_the_curves(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["plain"])
    curves = table_in(data_in(pages["plain"].read_text(encoding="utf-8")), "curves")
    goal = int(100 * curves["client_accuracy_mean"].groupby(curves["run"]).max().min())
    choose(browser, "target", 0, goal)
    reached = curves[100 * curves["client_accuracy_mean"] >= goal].groupby(["method", "run"])["megabytes"].min()
    expected = reached.groupby("method").mean()
    drawn = texts(browser, "target")
    assert [float(text.partition(" ")[0].replace(",", "")) for text in drawn] == pytest.approx(expected, rel=1e-3)
    choose(browser, "target", 1, "round")
    rounds = curves[100 * curves["client_accuracy_mean"] >= goal].groupby(["method", "run"])["round"].min()
    drawn = texts(browser, "target")
    assert [float(text.partition(" ")[0]) for text in drawn] == pytest.approx(rounds.groupby("method").mean(), rel=1e-3)


def test_a_target_that_nobody_reaches_is_said(
    browser: webdriver.Chrome, pages: dict[str, Path], tmp_path: Path
) -> None:
    text = pages["plain"].read_text(encoding="utf-8")
    best = 100 * pd.Series(table_in(data_in(text), "curves")["client_accuracy_mean"]).max()
    show(browser, pages["plain"])
    top = int(browser.find_element(By.CSS_SELECTOR, "#target input[type=range]").get_attribute("max") or 0)
    assert best <= top <= best + 1
    choose(browser, "target", 0, top)
    assert texts(browser, "target") == ["not reached"] * 2


def test_the_reader_chooses_a_method(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["plain"])
    line = "return document.querySelector('[data-figure=spread] .mark-line.role-mark path').getAttribute('d')"
    menu = Select(browser.find_element(By.CSS_SELECTOR, "#convergence figure:nth-of-type(2) select"))
    assert [option.text for option in menu.options] == ["FedAvg", "FedBN"]
    before = browser.execute_script(line)
    choose(browser, "spread", 0, "FedBN")
    assert browser.execute_script(line) != before
