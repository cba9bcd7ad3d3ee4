"""The plotting script: bundled once, kept, and made anew where what was kept is damaged."""

import gzip
from pathlib import Path

import pytest
import vl_convert

from datasets.cache import VARIABLE
from fedsim.report.page.script import inside_a_page, plotting_script


def test_it_is_kept_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    made = plotting_script()
    assert "vegaEmbed" in made
    assert "</script" not in made
    (kept,) = (tmp_path / "cache").iterdir()
    assert gzip.decompress(kept.read_bytes()).decode() == made
    kept.write_bytes(gzip.compress(b"kept"))
    assert plotting_script() == "kept"
    kept.write_bytes(kept.read_bytes()[:-6])
    assert plotting_script() == made
    assert gzip.decompress(kept.read_bytes()).decode() == made


def test_a_cache_that_cannot_be_written_costs_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    assert len(plotting_script()) > 500_000
    assert "cannot be written" in caplog.text


def test_texts_that_end_an_element_are_escaped() -> None:
    assert inside_a_page("a</script>b<!--c") == "a<\\/script>b<\\!--c"
    assert vl_convert.get_vegalite_versions()
