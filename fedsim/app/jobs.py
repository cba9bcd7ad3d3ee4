"""The jobs of a command line: their settings are tried before anything starts, and then each is run.

Here torch and Flower are loaded, which takes seconds; ``fedsim/app/cli.py`` refuses misspelt words without them.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fedsim.app.sweep import FILE as SWEEP_FILE
from fedsim.app.sweep import is_begun, is_finished
from fedsim.config.composition import CONFIG_DIR, CONFIG_NAME
from fedsim.config.overrides import word_for
from fedsim.config.run_folders import only_if_used, remove_if_empty
from fedsim.config.settings import Settings, settings_of
from fedsim.core.errors import FedsimError, UserError
from fedsim.core.files import any_file
from fedsim.deployment.superlink import NAME as SUPERLINK
from fedsim.deployment.superlink import SuperLink, check_receiving_dir, follow
from fedsim.output.checkpoint import has_checkpoint
from fedsim.output.job_lines import JobLines
from fedsim.output.progress import Reporter
from fedsim.output.reporters import console_reporter
from fedsim.output.results import Result
from fedsim.output.run_directory import check_run_dir
from fedsim.output.terminal import print_line, print_whole
from fedsim.report.run_table import run_table
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run

BASIC = "BasicLauncher"
"""Hydra's launcher that runs one job after the other."""
JOBLIB = "hydra_joblib_launcher"
"""The package of the launcher that runs the jobs of a sweep at once."""


def check(settings: Sequence[Settings], options: argparse.Namespace, *, going_on: bool = False) -> Prepared | None:
    """Try the settings of every job, and only then whether their directories can be written.

    Return, of a single job that is not for other machines, what the run would have to prepare again.

    Args:
        settings: The settings of the jobs, by number.
        options: The flags.
        going_on: Whether they are the jobs of a sweep that goes on; those that are finished are not tried again.
    """
    prepared: Prepared | None = None
    for number, each in enumerate(settings):
        if going_on and is_finished(Path(str(each.out_dir), str(number))):
            continue
        if each.engine["name"] == SUPERLINK:
            _refuse_other_configuration(options)
            SuperLink.check([], each.engine)  # the rest is checked on the SuperLink's side, where the images are
        else:
            made = prepare(each)
            prepared = made if len(settings) == 1 else None
    for number, each in enumerate(settings):
        if each.out_dir is not None and each.resume is None:
            check_dir = check_receiving_dir if each.engine["name"] == SUPERLINK else check_run_dir
            run_dir = Path(each.out_dir, str(number)) if options.multirun else Path(each.out_dir)
            if going_on and is_begun(run_dir):
                continue
            with only_if_used(run_dir):
                check_dir(run_dir)
    return prepared


def run_job(
    config: DictConfig,
    prepared: Prepared | None,
    failed: list[FedsimError],
    lines: JobLines | None = None,
    *,
    going_on: bool = False,
) -> None:
    """Run one job in the directory that Hydra has made for it; if it fails, the other jobs of a sweep still run.

    Args:
        config: The job's configuration.
        prepared: What ``check`` has returned.
        failed: Is given the error with which the job ends, if it does.
        lines: Where it is a job of a sweep, what tells which.
        going_on: Whether it is a job of a sweep that goes on: if it is finished nothing is done, and if it has begun
            it is resumed.
    """
    made = run_dir = Path(HydraConfig.get().runtime.output_dir)
    if going_on and is_finished(run_dir):
        if not config.quiet:
            print_line(f"{_shown(run_dir)} was finished before")
        return
    sweeps, at_once = HydraConfig.get().mode == RunMode.MULTIRUN, _at_once()
    number = HydraConfig.get().job.num if sweeps else 0
    if lines is not None and not config.quiet:
        print_line(lines.line(number, at_once))
    label = "" if at_once == 1 else f"job {number + 1}"
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    try:
        with any_file():
            if going_on and is_begun(run_dir):
                settings = settings_of({"resume": str(run_dir), "quiet": container["quiet"]})
            else:
                words = list(HydraConfig.get().overrides.task)
                settings = settings_of({str(key): value for key, value in container.items()}, words)
            settings = _with_share_of_cores(settings, at_once)
            run_dir = made if settings.resume is None else Path(settings.resume)
            result = _result(settings, prepared, run_dir, console_reporter(quiet=settings.quiet, label=label))
    except FedsimError as error:  # here, since Hydra would put the whole command line before the sentence
        print(f"error: {error}", file=sys.stderr)
        if not isinstance(error, UserError):
            _tell_how_to_go_on(run_dir)
        failed.append(error)
        if sweeps:
            remove_if_empty(made)
        return
    except KeyboardInterrupt:
        _tell_how_to_go_on(run_dir)
        if (run_dir.parent / SWEEP_FILE).is_file():
            print(f"go on with the sweep: python run.py {word_for('resume', _shown(run_dir.parent))}", file=sys.stderr)
        raise
    if made != run_dir:
        remove_if_empty(made)
    if not settings.quiet:
        print_whole(run_table(result))
    print_line(f"run directory: {_shown(run_dir)}")


def _at_once() -> int | None:
    """Return how many jobs of a sweep run at once: ``None`` where only the launcher knows, as under Slurm."""
    launcher = HydraConfig.get().launcher
    if BASIC in str(launcher.get("_target_")):
        return 1
    if JOBLIB not in str(launcher.get("_target_")):
        return None
    from joblib import effective_n_jobs

    return int(effective_n_jobs(launcher.n_jobs))


def _with_share_of_cores(settings: Settings, jobs: int | None) -> Settings:
    """Return the settings with an equal share of the cores, where several jobs run at once on this machine.

    That is for an engine whose number of workers is left open.
    """
    engine = settings.engine
    if jobs in (1, None) or engine.get("workers", 0) is not None:
        return settings
    from joblib import cpu_count

    return replace(settings, engine={**engine, "workers": max(1, cpu_count() // jobs)})


def _result(settings: Settings, prepared: Prepared | None, run_dir: Path, reporter: Reporter) -> Result:
    """Return the result of a run on this machine, or on the devices of a SuperLink.

    ``prepared`` is what ``check`` has returned, if anything.

    Raises:
        FedsimError: If the run fails.
    """
    if settings.engine["name"] == SUPERLINK:
        words = list(HydraConfig.get().overrides.task)
        return follow(settings, words, run_dir, reporter)
    if prepared is None or prepared.settings != settings:
        prepared = prepare(settings)
    reporter.say(str(prepared))
    if settings.verbose:
        reporter.say(prepared.replaced_layers())
    return run(prepared, run_dir, reporter)


def _tell_how_to_go_on(run_dir: Path) -> None:
    if has_checkpoint(run_dir / "checkpoints"):
        print(f"go on with: python run.py {word_for('resume', _shown(run_dir))}", file=sys.stderr)


def _refuse_other_configuration(options: argparse.Namespace) -> None:
    """Refuse ``--config-name`` and ``--config-path`` with ``engine=superlink``.

    Only the words of the command line are sent to a SuperLink, so a configuration file of this machine would be checked
    here and unknown there.

    Raises:
        UserError: If the configuration is not the checkout's own.
    """
    folder, name = options.configuration
    if folder.resolve() == CONFIG_DIR and name == CONFIG_NAME:
        return
    other = f"--config-name={name}" if name != CONFIG_NAME else f"--config-path={_shown(folder)}"
    raise UserError(f"{other} is not possible with engine=superlink: write its settings as key=value, which are sent.")


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
