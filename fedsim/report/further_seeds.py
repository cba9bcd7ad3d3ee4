"""The chosen settings of each method on further seeds, whose test accuracy is what a table shows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from fedsim.config.composition import load
from fedsim.core.errors import UserError
from fedsim.output.job_lines import JobLines
from fedsim.output.reporters import console_reporter
from fedsim.output.results import Result, read_result
from fedsim.output.terminal import print_line
from fedsim.report.choice import Choice
from fedsim.report.labels import comparable, flattened, written

if TYPE_CHECKING:  # loads torch and Flower, which a table does not need
    from fedsim.config.settings import Settings


@dataclass(frozen=True)
class FurtherRun:
    """The chosen settings of a method on a further seed."""

    method: str
    """The method's label, with the chosen settings"""
    seed: int
    run_dir: Path
    settings: "Settings"


def further_runs(
    choices: Sequence[Choice], seeds: Sequence[int], overrides: Sequence[str], folder: Path
) -> list[FurtherRun]:
    """Return what is to be run, every choice on every further seed, or has been run in this folder.

    Raises:
        UserError: If an override cannot be read, or a directory holds a run with other settings.
    """
    runs = []
    for choice in choices:
        method = f"{choice.method} {choice.written}"
        for seed in seeds:
            run_dir = folder / re.sub(r"[^\w.=,+-]+", "_", method) / str(seed)
            runs.append(FurtherRun(method, seed, run_dir, _settings(choice, seed, overrides, run_dir)))
            _refuse_another_run(runs[-1])
    return runs


def _settings(choice: Choice, seed: int, overrides: Sequence[str], run_dir: Path) -> "Settings":
    from fedsim.config.settings import Settings  # loads torch and Flower, which a table does not need

    wanted = OmegaConf.create({**load(choice.run.run_dir), "out_dir": str(run_dir), "resume": None, "seed": seed})
    try:
        wanted.merge_with_dotlist(list(overrides))
    except ValueError as error:
        raise UserError(f"--set {' '.join(overrides)} cannot be read: write KEY=VALUE.") from error
    container = OmegaConf.to_container(wanted)
    assert isinstance(container, dict)
    return Settings.from_config({str(key): value for key, value in container.items()})


def _refuse_another_run(each: FurtherRun) -> None:
    if not (each.run_dir / "config.yaml").exists():
        return
    asked, found = flattened(each.settings.to_config()), flattened(load(each.run_dir))
    for key in dict.fromkeys((*asked, *found)):
        if comparable(asked.get(key)) != comparable(found.get(key)):
            raise UserError(
                f"{each.run_dir} holds a run with {key}={written(found.get(key))}, where {key}="
                f"{written(asked.get(key))} is asked for: choose another --out, or delete that folder."
            )


def run_all(runs: Sequence[FurtherRun]) -> dict[str, list[Result]]:
    """Make every run; a finished one is reused, and a stopped one is resumed."""
    results = {number: _finished(each.run_dir) for number, each in enumerate(runs)}
    words = [[f"{each.method} seed={each.seed}"] for each in runs]
    lines = JobLines.of(words, [number for number, result in results.items() if result is not None])
    groups: dict[str, list[Result]] = {}
    for number, each in enumerate(runs):
        groups.setdefault(each.method, []).append(results[number] or _made(each, lines.line(number)))
    return groups


def _finished(run_dir: Path) -> Result | None:
    """Return the result of a run that has made all its rounds, if there is one."""
    if (run_dir / "summary.json").exists():
        result = read_result(run_dir)
        if result.summary["final"]["round"] == result.summary["rounds"]:
            return result
    return None


def _made(each: FurtherRun, line: str) -> Result:
    """Make the run, or go on with it; ``line`` tells which it is."""
    from fedsim.config.settings import settings_in
    from fedsim.server.preparation import prepare
    from fedsim.server.simulation import run

    settings = each.settings
    if (each.run_dir / "config.yaml").exists():
        settings = replace(settings_in(each.run_dir), resume=str(each.run_dir))
    if not settings.quiet:
        print_line(line)
    return run(prepare(settings), each.run_dir, console_reporter(quiet=settings.quiet))
