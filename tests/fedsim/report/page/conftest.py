"""Pages of real runs, and what stands in them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedsim.output.progress import Reporter
from fedsim.output.results import Result
from fedsim.report.labels import group_by_settings
from fedsim.report.page.writing import page
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings

RICH = (
    *("strategy=fedloge", "split=[longtail,domain,dirichlet]", "split.clients_per_domain=2", "split.alpha=0.5"),
    *("mask_absent_classes=true", "diagnostics=true", "diagnostics_images=8"),
    *("faults=injected", "faults.drop_out=0.4", "min_fraction_success=0.1"),
)
"""A run that has everything a section could be of, but for published numbers"""


def sections_in(text: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', text)


def data_in(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def table_in(data: Mapping[str, Any], name: str) -> pd.DataFrame:
    """A table of the page, as the browser unpacks it."""
    columns = {}
    for column, values in data["tables"][name].items():
        coded = isinstance(values, dict)
        columns[column] = [values["levels"][code] for code in values["codes"]] if coded else values
    return pd.DataFrame(columns)


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return _play(tmp_path_factory.mktemp("rich") / "run", *RICH)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Result]]:
    """Two methods with two seeds each, which have nothing but accuracies."""
    root = tmp_path_factory.mktemp("plain")
    runs = [
        _play(root / f"{name}{seed}", f"strategy={name}", f"seed={seed}")
        for name in ("fedavg", "fedbn")
        for seed in (0, 1)
    ]
    return group_by_settings(runs)


@pytest.fixture(scope="session")
def rich_page(rich: Result) -> str:
    return page(group_by_settings([rich]))


@pytest.fixture(scope="session")
def plain_page(plain: dict[str, list[Result]]) -> str:
    return page(plain)


def _play(run_dir: Path, *words: str) -> Result:
    return run(prepare(small_settings("engine=inline", *words)), run_dir, Reporter())
