"""What ``configs/dataset`` says of each set is what its ``load`` takes."""

import inspect
from pathlib import Path
from pkgutil import resolve_name

import pytest
from omegaconf import OmegaConf

from fedsim.config.composition import CONFIG_DIR

FILES = sorted((CONFIG_DIR / "dataset").glob("*.yaml"))
OFFERED = {"data_dir", "download"}
"""What a loader is given beside its options, if it names it"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_has_every_option_of_the_loader_that_it_names(file: Path) -> None:
    options = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(options, dict)
    assert options.pop("name") == file.stem
    load = resolve_name(options.pop("_target_"))
    assert load.__module__.startswith("datasets.")
    assert options.keys() == set(inspect.signature(load).parameters) - OFFERED


@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem != "devices"])
def test_the_loader_is_called_as_the_runs_of_earlier_versions_have_it(name: str) -> None:
    """Their ``config.yaml`` holds the name, and a run goes on by it."""
    assert OmegaConf.load(CONFIG_DIR / "dataset" / f"{name}.yaml")["_target_"] == f"datasets.{name}.load"
