"""The command line: checks everything first, then lets Hydra run one job or a sweep.

Wrong settings are refused before Hydra makes a directory, with one sentence and exit status 2. What needs torch and
Flower is in ``jobs.py``, which is loaded once the words are known to be right.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from fedsim.app.sweep import FILE as SWEEP_FILE
from fedsim.app.sweep import Sweep, finished_jobs, finished_of
from fedsim.config.composition import (
    CONFIG_DIR,
    CONFIG_NAME,
    compose,
    hydra_at,
    named_folder,
    refuse_continuous,
    register_families,
    register_resolvers,
)
from fedsim.config.listing import asked_for, listing
from fedsim.config.overrides import parse, readable
from fedsim.config.paths import HYDRAS, expanded
from fedsim.config.run_folders import RUNS, SWEEPS, run_folder
from fedsim.config.settings import settings_of
from fedsim.config.sweep_options import refuse_no_sweep
from fedsim.core import collector
from fedsim.core.errors import INTERRUPTED, FedsimError, UserError
from fedsim.core.files import any_file
from fedsim.engines import fork_server
from fedsim.output.job_lines import JobLines
from fedsim.output.terminal import never_fail_to_print

if TYPE_CHECKING:
    from fedsim.server.preparation import Prepared

SHOWING = ("cfg", "info", "help", "hydra_help", "version", "shell_completion")
"""Flags with which Hydra shows something instead of running."""
QUIET = "quiet=true"
"""What ``--quiet`` stands for."""
HYDRAS_LOG = "hydra/hydra_logging"
ELSEWHERE = "hydra/launcher=submitit"
"""The beginning of the word for jobs that do not print here."""
FLAGS = (*SHOWING, "run", "multirun", "resolve", "package", "config_path", "config_name", "config_dir")


def main() -> None:
    """Run what ``sys.argv`` says and exit."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug of fedsim shows its whole traceback
    never_fail_to_print()
    failed: list[FedsimError] = []
    jobs: list[list[str]] = []
    try:
        options, overrides = _parse(sys.argv[1:])
        if wanted := asked_for(overrides):
            for group in wanted:
                print(listing(group))
            return
        going_on = Sweep.named_by(overrides) if options.runs else None
        if going_on is not None:
            folder, sweep = going_on
            options.multirun, overrides = True, sweep.words_in(folder, overrides)
            options.configuration = options.config_path, options.config_name = sweep.configuration
        sys.argv[1:] = [*_flags(options), *_untold(overrides, options), *overrides]  # what Hydra reads
        with ExitStack() as stack:
            prepared: Prepared | None = None
            named: set[str | None] = {None}
            if options.checked:
                jobs = [*_jobs(overrides, options)]
                configs = [compose(words, *options.configuration) for words in jobs]  # refuses misspelt words
                fork_server.start_early(config["engine"] for config in configs)
                with collector.paused():  # torch and Flower are loaded, and then much more
                    settings = [settings_of(config, words) for config, words in zip(configs, jobs, strict=True)]
                    from fedsim.app.jobs import check

                    prepared = check(settings, options, going_on=going_on is not None)
                named = {named_folder(each.out_dir, None if options.multirun else each.resume) for each in settings}
            elif options.cfg is not None:
                _check_shown(overrides, options)
            new: Path | None = None
            if options.runs and not any(word.startswith(HYDRAS) for word in overrides):
                only = next(iter(named)) if len(named) == 1 else None
                new = stack.enter_context(run_folder(only, SWEEPS if options.multirun else RUNS))
                if options.multirun and options.checked and len(named) == 1:
                    stack.callback(_forget_empty_sweep, new)
                    Sweep(overrides, options.configuration).save(new)
            register_families(overrides)
            register_resolvers(new)
            lines: JobLines | None = None
            if options.multirun and options.checked:
                lines = JobLines.of(jobs, [] if going_on is None else finished_of(going_on[0], len(jobs)))

            def job(config: DictConfig) -> None:
                from fedsim.app.jobs import run_job

                run_job(config, prepared, failed, lines, going_on=going_on is not None)

            with any_file(UserError, "choose another directory with out_dir=."):  # Hydra makes those of the runs
                hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=CONFIG_NAME)(job)()
        if failed:
            sys.exit(max(error.exit_status for error in failed))
        if new is not None and (new / SWEEP_FILE).is_file() and finished_jobs(new) < len(jobs):
            sys.exit(FedsimError.exit_status)  # a job in a process of a launcher has failed, and has said why
    except FedsimError as error:
        _end(error)
    except HydraException as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(UserError.exit_status)
    except KeyboardInterrupt:
        print("stopped; what was recorded is intact", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _end(error: FedsimError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_status)


def _check_shown(overrides: Sequence[str], options: argparse.Namespace) -> None:
    """Refuse a configuration that ``--cfg`` cannot show, with the sentences that a run would raise.

    Without this check, Hydra would show one of several configurations and hide that there are more.

    Raises:
        UserError: If a word names several values, or is misspelt.
    """
    for text in overrides:
        if parse(text).is_sweep_override():
            raise UserError(f"{text} names several values, and --cfg shows one configuration: choose one.")
    if options.config_dir is None:
        compose(overrides, *options.configuration)


def _forget_empty_sweep(folder: Path) -> None:
    """Delete what describes the sweep if its folder holds no run beside it."""
    described = {"multirun.yaml", SWEEP_FILE}
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= described:
        for name in described:
            (folder / name).unlink(missing_ok=True)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one sentence that shows how a setting is written, since that is mostly what was meant."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise UserError(f"{message}: `python run.py --hydra-help` has the flags.")
        flag = unknown.split()[0].partition("=")[0]
        key = flag.lstrip("-").replace("-", "_")
        raise UserError(f"{flag} is not a flag: settings are written {key}=VALUE, and --hydra-help has the flags.")


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return Hydra's flags, wherever they stand, and the other words in a form that Hydra can read.

    Relative folders are resolved against the current directory, not, as Hydra does, against the file that calls it.

    Raises:
        UserError: If flags contradict each other or are unknown.
    """
    parser = _Parser(prog="run.py", add_help=False, allow_abbrev=False)
    for flag, short in (("help", "-h"), ("run", "-r"), ("multirun", "-m"), ("shell-completion", "-sc")):
        parser.add_argument(f"--{flag}", short, action="store_true")
    for flag in ("hydra-help", "version", "resolve", "quiet"):
        parser.add_argument(f"--{flag}", action="store_true")
    for flag, short in (("config-path", "-cp"), ("config-name", "-cn"), ("config-dir", "-cd"), ("package", "-p")):
        parser.add_argument(f"--{flag}", short)
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--info", "-i", nargs="?", const="all")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    for flag in ("config_path", "config_dir"):
        if (folder := getattr(options, flag)) is not None:
            setattr(options, flag, Path(expanded(f"--{flag.replace('_', '-')}", folder)).absolute())
    shows = [flag for flag in SHOWING if getattr(options, flag)]
    if options.multirun and shows:
        raise UserError(
            f"--multirun is not possible with --{shows[0].replace('_', '-')}, which shows one configuration: leave "
            "--multirun (-m) out, and give each setting one value."
        )
    options.runs = not shows
    options.checked = options.runs and options.config_dir is None  # only Hydra knows what --config-dir adds
    if (options.config_path or options.config_name) and any(word.startswith("resume=") for word in options.overrides):
        raise UserError("--config-path and --config-name cannot be given with resume=: a run keeps its own settings.")
    name = options.config_name and options.config_name.removesuffix(".yaml")
    options.configuration = (options.config_path or CONFIG_DIR, name or CONFIG_NAME)
    return options, [readable(word) for word in (*options.overrides, *([QUIET] if options.quiet else []))]


def _flags(options: argparse.Namespace) -> list[str]:
    """Return the flags as words for Hydra's own parser, which does not accept them between overrides."""
    given = {name.replace("_", "-"): value for name, value in vars(options).items() if name in FLAGS and value}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


def _untold(overrides: Sequence[str], options: argparse.Namespace) -> list[str]:
    """Return the word that keeps Hydra from telling of the jobs of a sweep, where they do so themselves, or are quiet.

    Of jobs that print elsewhere it tells where.
    """
    if not options.multirun or any(word.startswith(HYDRAS_LOG) for word in overrides):
        return []
    told = options.checked and not any(word.startswith(ELSEWHERE) for word in overrides)
    return [f"{HYDRAS_LOG}=none"] if told or QUIET in overrides else []


def _jobs(overrides: list[str], options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the overrides of each job of a sweep: every combination, as Hydra's basic sweeper forms them.

    Raises:
        UserError: If a word cannot be read, or the basic sweeper cannot make jobs of it.
    """
    if not options.multirun:
        yield overrides
        return
    alternatives: dict[str, list[str]] = {}
    with hydra_at(options.configuration[0]) as hydra_here:
        for text in overrides:
            override = parse(text)
            override.config_loader = hydra_here.config_loader()  # glob lists choices with it
            refuse_continuous(override)
            refuse_no_sweep(override)
            key = override.get_key_element()
            alternatives[key] = [text]
            if override.is_sweep_override():
                alternatives[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
                if not alternatives[key]:
                    raise UserError(f"{text} names no value: choose at least one.")
    yield from (list(job) for job in itertools.product(*alternatives.values()))
