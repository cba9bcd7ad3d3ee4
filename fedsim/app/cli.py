"""The command line: checks everything first, then lets Hydra run one job or a sweep.

Wrong settings are refused before Hydra makes a directory, with one sentence and exit status 2.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

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
from fedsim.config.overrides import parse, readable, word_for
from fedsim.config.paths import HYDRAS, expanded
from fedsim.config.settings import Settings, settings_of
from fedsim.core.errors import FedsimError, UserError
from fedsim.core.files import any_file
from fedsim.deployment.superlink import NAME as SUPERLINK
from fedsim.deployment.superlink import SuperLink, check_receiving_dir, follow
from fedsim.methods.method import Method
from fedsim.output.checkpoint import has_checkpoint
from fedsim.output.progress import console_reporter
from fedsim.output.recorder import check_run_dir
from fedsim.output.results import Result
from fedsim.output.run_folders import RUNS, SWEEPS, only_if_used, remove_if_empty, run_folder
from fedsim.output.terminal import console, never_fail_to_print, print_whole
from fedsim.report.command import run_table
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
SHOWING = ("cfg", "info", "help", "hydra_help", "version", "shell_completion")
"""Flags with which Hydra shows something instead of running."""
FLAGS = (*SHOWING, "run", "multirun", "resolve", "package", "config_path", "config_name", "config_dir")


def main() -> None:
    """Run what ``sys.argv`` says and exit."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug of ours shows its whole traceback
    never_fail_to_print()
    failed: list[FedsimError] = []
    try:
        options, overrides = _parse(sys.argv[1:])
        sys.argv[1:] = [*_flags(options), *overrides]  # what Hydra reads
        with ExitStack() as stack:
            prepared: Prepared | None = None
            named: set[str | None] = {None}
            if options.checked:
                jobs = [*_jobs(overrides, options)]
                settings, prepared = _check(jobs, options)
                named = {named_folder(each.out_dir, each.resume) for each in settings}
            elif options.cfg is not None:
                _check_shown(overrides, options)
            new: Path | None = None
            if options.runs and not any(word.startswith(HYDRAS) for word in overrides):
                only = named.pop() if len(named) == 1 else None
                new = stack.enter_context(run_folder(only, SWEEPS if options.multirun else RUNS))
            register_families(overrides)
            register_resolvers(new)

            def job(config: DictConfig) -> None:
                _job(config, prepared, failed)

            with any_file(UserError, "choose another directory with out_dir=."):  # Hydra makes those of the runs
                hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=CONFIG_NAME)(job)()
            if new is not None and options.multirun:
                _forget_empty_sweep(new)
        if failed:
            sys.exit(max(error.exit_status for error in failed))
    except FedsimError as error:
        _end(error)
    except HydraException as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(UserError.exit_status)
    except KeyboardInterrupt:
        print("stopped; what was recorded is intact", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _job(config: DictConfig, prepared: Prepared | None, failed: list[FedsimError]) -> None:
    """One run, in the directory that Hydra has made for it. If it fails, the other runs of a sweep are still played."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    settings = settings_of({str(key): value for key, value in container.items()})
    try:
        with any_file():
            result = _result(settings, prepared, run_dir)
    except FedsimError as error:  # here, since Hydra would put the whole command line before the sentence
        print(f"error: {error}", file=sys.stderr)
        if not isinstance(error, UserError):
            _tell_how_to_go_on(run_dir)
        failed.append(error)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            remove_if_empty(run_dir)
        return
    except KeyboardInterrupt:
        _tell_how_to_go_on(run_dir)
        raise
    print_whole(run_table(result))
    console().print(f"run directory: {_shown(run_dir)}", soft_wrap=True)


def _end(error: FedsimError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_status)


def _result(settings: Settings, prepared: Prepared | None, run_dir: Path) -> Result:
    """Of a run on this machine, or on the devices of a SuperLink; ``prepared`` is what the check has left, if anything.

    Errors: ``FedsimError`` if it fails.
    """
    if settings.engine["name"] == SUPERLINK:
        words = list(HydraConfig.get().overrides.task)
        return follow(settings, words, run_dir, console_reporter())
    if prepared is None or prepared.settings != settings:
        prepared = prepare(settings)
    print(prepared, flush=True)
    if settings.verbose:
        print(prepared.replaced_layers(), flush=True)
    return run(prepared, run_dir, console_reporter())


def _tell_how_to_go_on(run_dir: Path) -> None:
    if has_checkpoint(run_dir / "checkpoints"):
        print(f"go on with: python run.py {word_for('resume', _shown(run_dir))}", file=sys.stderr)


def _check(jobs: Sequence[Sequence[str]], options: argparse.Namespace) -> tuple[list[Settings], Prepared | None]:
    """Try the settings of every job, and only then whether their directories can be written.

    Of a single job that is not for other machines, what the run would have to prepare again is returned beside them.
    """
    prepared: Prepared | None = None
    settings = [settings_of(compose(overrides, *options.configuration), overrides) for overrides in jobs]
    for each in settings:
        if each.engine["name"] == SUPERLINK:
            _refuse_other_configuration(options)
            SuperLink.check([], each.engine)
            Method.of(each.strategy)  # the rest is where the images are: there
        else:
            made = prepare(each)
            prepared = made if len(jobs) == 1 else None
    for number, each in enumerate(settings):
        if each.out_dir is not None and each.resume is None:
            check = check_receiving_dir if each.engine["name"] == SUPERLINK else check_run_dir
            run_dir = Path(each.out_dir, str(number)) if options.multirun else Path(each.out_dir)
            with only_if_used(run_dir):
                check(run_dir)
    return settings, prepared


def _check_shown(overrides: Sequence[str], options: argparse.Namespace) -> None:
    """The same sentences as for a run, where there would be several of which Hydra shows one."""
    for text in overrides:
        if parse(text).is_sweep_override():
            raise UserError(f"{text} names several values, and --cfg shows one configuration: choose one.")
    if options.config_dir is None:
        compose(overrides, *options.configuration)


def _forget_empty_sweep(folder: Path) -> None:
    """Hydra's note of a sweep goes if no run is left beside it."""
    if [path.name for path in folder.iterdir()] == ["multirun.yaml"]:
        (folder / "multirun.yaml").unlink()


def _refuse_other_configuration(options: argparse.Namespace) -> None:
    """Only words are sent to a SuperLink: what a file here says would be checked here and unknown there."""
    folder, name = options.configuration
    if folder.resolve() == CONFIG_DIR and name == CONFIG_NAME:
        return
    other = f"--config-name={name}" if name != CONFIG_NAME else f"--config-path={_shown(folder)}"
    raise UserError(f"{other} is not possible with engine=superlink: write its settings as key=value, which are sent.")


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong with a flag in a sentence, since most who write one mean a setting."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise UserError(f"{message}: `python run.py --help` has the flags.")
        flag = unknown.split()[0].partition("=")[0]
        key = flag.lstrip("-").replace("-", "_")
        raise UserError(f"{flag} is not a flag: settings are written {key}=VALUE, and --help has the flags.")


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's flags, wherever they stand, and the words beside them as Hydra can read them.

    Relative folders are those of where one is, and not, as Hydra has it, of the file that calls it.

    Raises:
        UserError: for flags that do not go together.
    """
    parser = _Parser(prog="run.py", add_help=False, allow_abbrev=False)
    for flag, short in (("help", "-h"), ("run", "-r"), ("multirun", "-m"), ("shell-completion", "-sc")):
        parser.add_argument(f"--{flag}", short, action="store_true")
    for flag in ("hydra-help", "version", "resolve"):
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
    options.checked = options.runs and options.config_dir is None  # what such a folder adds, Hydra alone knows
    name = options.config_name and options.config_name.removesuffix(".yaml")
    options.configuration = (options.config_path or CONFIG_DIR, name or CONFIG_NAME)
    return options, [readable(word) for word in options.overrides]


def _flags(options: argparse.Namespace) -> list[str]:
    """The same flags for Hydra's own parser, which does not take them between overrides."""
    given = {name.replace("_", "-"): value for name, value in vars(options).items() if name in FLAGS and value}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


def _jobs(overrides: list[str], options: argparse.Namespace) -> Iterator[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper forms them: every combination.

    Raises:
        UserError: for a word that cannot be read, or one that the basic sweeper cannot make jobs of.
    """
    if not options.multirun:
        yield overrides
        return
    alternatives: dict[str, list[str]] = {}
    with hydra_at(options.configuration[0]) as hydra_here:
        for text in overrides:
            override = parse(text)
            override.config_loader = hydra_here.config_loader()  # glob asks it what there is
            refuse_continuous(override)
            key = override.get_key_element()
            alternatives[key] = [text]
            if override.is_sweep_override():
                alternatives[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
                if not alternatives[key]:
                    raise UserError(f"{text} names no value: choose at least one.")
    yield from (list(job) for job in itertools.product(*alternatives.values()))


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
