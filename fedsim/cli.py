"""The command line: checks everything first, then lets Hydra run one job or a sweep.

Wrong settings are refused before Hydra makes a directory, with one sentence and exit status 2.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from fedsim.checkpoint import has_checkpoint
from fedsim.config import CONFIG_DIR, CONFIG_NAME, compose, load, register_families, register_resolvers
from fedsim.errors import FedsimError, UserError
from fedsim.files import any_file
from fedsim.progress import console_reporter
from fedsim.recording import check_run_dir
from fedsim.report import run_table
from fedsim.results import Result
from fedsim.settings import Settings
from fedsim.simulation import Prepared, prepare, run
from fedsim.superlink import NAME as SUPERLINK
from fedsim.superlink import SuperLink, check_receiving_dir, follow
from fedsim.terminal import console, never_fail_to_print, print_whole

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Runs what ``sys.argv`` says and exits."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug of ours shows its whole traceback
    never_fail_to_print()
    prepared: Prepared | None = None
    # Hydra's parser does not take overrides on both sides of a flag: flags go first.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda text: "=" in text and not text.startswith("-"))
    try:
        options, overrides = _parse(sys.argv[1:])
        if options.runs:
            prepared = _check([*_jobs(overrides, options.multirun)], options)
        else:
            register_families(overrides)
        register_resolvers()
        failed: list[FedsimError] = []

        def job(config: DictConfig) -> None:
            _job(config, prepared, failed)

        with any_file(UserError, "choose another directory with out_dir=."):  # Hydra makes those of the runs
            hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=CONFIG_NAME)(job)()
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
    settings = _settings({str(key): value for key, value in container.items()})
    try:
        with any_file():
            result = _result(settings, prepared, run_dir)
    except FedsimError as error:  # here, since Hydra would put the whole command line before the sentence
        print(f"error: {error}", file=sys.stderr)
        if not isinstance(error, UserError):
            _tell_how_to_go_on(run_dir)
        failed.append(error)
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
        print(f"go on with: python run.py resume={_shown(run_dir)}", file=sys.stderr)


def _check(jobs: Sequence[Sequence[str]], options: argparse.Namespace) -> Prepared | None:
    """Tries the settings of every job, and only then whether their directories can be written.

    Of a single job that is not for other machines it returns what the run would have to prepare again.
    """
    prepared: Prepared | None = None
    settings = [_settings(compose(overrides, options.config_dir, options.config_name)) for overrides in jobs]
    for each, overrides in zip(settings, jobs, strict=True):
        if each.resume is not None and len(overrides) > 1:
            other = next(text for text in overrides if not text.startswith("resume="))
            raise UserError(f"{other} cannot be given with resume=: a resumed run keeps its own settings.")
        if each.engine["name"] == SUPERLINK:
            _refuse_other_configuration(options)
            SuperLink.check([], each.engine)  # the rest is where the images are: there
        else:
            made = prepare(each)
            prepared = made if len(jobs) == 1 else None
    for number, each in enumerate(settings):
        if each.out_dir is not None and each.resume is None:
            check = check_receiving_dir if each.engine["name"] == SUPERLINK else check_run_dir
            check(Path(each.out_dir, str(number)) if options.multirun else Path(each.out_dir))
    return prepared


def _refuse_other_configuration(options: argparse.Namespace) -> None:
    """Only words are sent to a SuperLink: what a file here says would be checked here and unknown there."""
    if options.config_dir.resolve() == CONFIG_DIR and options.config_name == CONFIG_NAME:
        return
    other = (
        f"--config-name={options.config_name}"
        if options.config_name != CONFIG_NAME
        else f"--config-path={options.config_dir}"
    )
    raise UserError(f"{other} is not possible with engine=superlink: write its settings as key=value, which are sent.")


def _settings(config: dict[str, object]) -> Settings:
    """The checked settings; those of the run directory where a run is resumed."""
    if config.get("resume") is None:
        return Settings.from_config(config)
    resume = Path(str(config["resume"]))
    config = {**load(resume), "resume": str(resume)}
    try:
        return Settings.from_config(config)
    except UserError as error:
        raise UserError(
            f"{resume / 'config.yaml'} was cut off or is of another version ({str(error).partition(':')[0]}): put back "
            "the file that the run has written, or start a new run."
        ) from error


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The few of Hydra's flags that decide what will run; Hydra itself reads all of them again."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-path", "-cp", dest="config_dir", type=Path, default=CONFIG_DIR)
    parser.add_argument("--config-name", "-cn", default=CONFIG_NAME)
    parser.add_argument("overrides", nargs="*")
    options, flags = parser.parse_known_args(arguments)
    options.runs = not flags  # --help, --cfg job and the like only print
    return options, options.overrides


def _jobs(overrides: list[str], multirun: bool) -> Iterator[list[str]]:
    """The overrides of each job of a sweep, as Hydra's basic sweeper forms them: every combination."""
    if not multirun:
        yield overrides
        return
    parser = OverridesParser.create()
    alternatives: list[list[str]] = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise UserError(f"{text!r} cannot be read: write key=value, or key=value,value for a sweep.") from error
        if override.is_sweep_override():
            key = override.get_key_element()
            alternatives.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            alternatives.append([text])
    yield from (list(job) for job in itertools.product(*alternatives))


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
