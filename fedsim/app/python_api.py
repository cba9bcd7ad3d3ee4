"""``fedsim.simulate``, ``fedsim.load`` and ``fedsim.compare``: runs from Python instead of the command line."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.app.run import Run
from fedsim.config.composition import compose, named_folder
from fedsim.config.paths import expanded
from fedsim.config.run_folders import run_folder
from fedsim.config.settings import settings_of
from fedsim.core.errors import UserError
from fedsim.deployment.superlink import NAME as SUPERLINK
from fedsim.deployment.superlink import follow
from fedsim.engines import fork_server
from fedsim.output.progress import Reporter
from fedsim.output.reporters import console_reporter
from fedsim.output.results import Result, find_runs
from fedsim.report.labels import group_by_settings
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from fedsim.trained.trained import Trained

if TYPE_CHECKING:
    from fedsim.report.comparison import Comparison


def simulate(overrides: Sequence[str], *, progress: bool) -> Run:
    """Compose and check the settings and run them; the run directory is ``out_dir`` or a new one under ``outputs/``."""
    config = compose(overrides)
    fork_server.start_early([config["engine"]])
    settings = settings_of(config, overrides)
    reporter = console_reporter(quiet=settings.quiet) if progress else Reporter()
    named = named_folder(settings.out_dir, settings.resume)
    if settings.engine["name"] == SUPERLINK:
        with run_folder(named) as run_dir:
            return Run.of(follow(settings, overrides, run_dir, reporter))
    prepared = prepare(settings)
    reporter.say(str(prepared))
    with run_folder(named) as run_dir:
        return Run.of(run(prepared, run_dir, reporter))


def load(run_dir: str | Path) -> Trained:
    """Return the models of a run directory; ``~`` is the home folder."""
    return Trained(Path(expanded("load", str(run_dir))))


def compare(runs: Iterable[Result | str | Path]) -> "Comparison":
    """Compare results, and the runs in or under folders; a run that is named twice counts once."""
    from fedsim.report.comparison import Comparison  # loads matplotlib, for which no run should wait

    folders = [run.run_dir if isinstance(run, Result) else Path(expanded("compare", str(run))) for run in runs]
    if not folders:
        raise UserError("compare=[] is not possible: choose results, run directories, or folders of run directories.")
    return Comparison.of(group_by_settings(find_runs(folders)))
