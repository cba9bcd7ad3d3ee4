"""The chosen settings of each method on further seeds, whose test accuracy is what a table shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fedsim.config.composition import load
from fedsim.core.errors import UserError
from fedsim.report.choice import Choice
from fedsim.report.planned_runs import PlannedRun, folder_name

if TYPE_CHECKING:  # loads torch and Flower, which a table does not need
    from fedsim.config.settings import Settings


def further_runs(
    choices: Sequence[Choice], seeds: Sequence[int], overrides: Sequence[str], folder: Path
) -> list[PlannedRun]:
    """Return what is to be run, every choice on every further seed, or has been run in this folder.

    Raises:
        UserError: If an override cannot be read, or a directory holds a run with other settings.
    """
    runs = []
    for choice in choices:
        method = f"{choice.method} {choice.written}"
        for seed in seeds:
            run_dir = folder / folder_name(method) / str(seed)
            runs.append(PlannedRun(method, seed, run_dir, _settings(choice, seed, overrides, run_dir)))
            runs[-1].check()
    return runs


def _settings(choice: Choice, seed: int, overrides: Sequence[str], run_dir: Path) -> "Settings":
    from fedsim.config.settings import Settings

    wanted = OmegaConf.create({**load(choice.run.run_dir), "out_dir": str(run_dir), "resume": None, "seed": seed})
    try:
        wanted.merge_with_dotlist(list(overrides))
    except (ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"--set {' '.join(overrides)} cannot be read: write KEY=VALUE.") from error
    container = OmegaConf.to_container(wanted)
    assert isinstance(container, dict)
    return Settings.from_config({str(key): value for key, value in container.items()})
