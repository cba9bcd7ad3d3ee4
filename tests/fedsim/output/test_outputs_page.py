"""``docs/outputs.md`` names every file, column and number that a run writes."""

import json
import re
from pathlib import Path

import pytest

import fedsim
from fedsim.core.checkout import ROOT

TEXT = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        ["strategy=fedbn", "split.leave_out=street", "diagnostics=true", "mask_absent_classes=true", "pictures=false"],
        ["strategy=fedtiny", "strategy.density=0.1", "split=longtail", "split.num_clients=3", "tta=bn_batch"],
    ],
    ids=["personal", "sparse"],
)
def test_everything_that_a_run_leaves_is_explained(method: list[str], tmp_path: Path) -> None:
    small = ["rounds=1", "engine=inline", "dataset.train_per_domain=40", "dataset.test_per_domain=20"]
    fedsim.simulate(*method, *small, f"out_dir={tmp_path / 'run'}", "split.validation=0.2", progress=False)
    for path in (tmp_path / "run").iterdir():
        assert f"`{path.name}" in TEXT
        if path.suffix == ".csv":
            columns = path.read_text(encoding="utf-8").partition("\n")[0].strip().split(",")
            section = TEXT.partition(f"\n### `{path.name}`\n")[2].partition("\n#")[0]
            for name in columns:
                assert explained(name, section), f"{path.name} has {name}"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    section = TEXT.partition("\n### `summary.json`\n")[2].partition("\n## ")[0]
    assert not [name for name in summary if f"`{name}`" not in section]


def explained(name: str, section: str) -> bool:
    """Whether a table's section has the column, by its name or by a word in capitals that stands for several."""
    plain = re.sub(r"^(masked|adapted)_", "", name)
    stem, dot, _ = plain.partition(".")
    candidates = {plain, stem, f"{stem}.DOMAIN" if dot else stem, f"LAYER_{plain.rpartition('_')[2]}"}
    if plain.startswith("train_"):
        candidates.add("train_...")
    there = any(re.search(rf"[`,]{re.escape(each)}[`,]", section) for each in candidates)
    return there and (plain == name or "`PREDICTOR_" in section)
