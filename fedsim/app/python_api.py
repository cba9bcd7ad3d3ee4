"""``fedsim.simulate``: a run from Python instead of the command line."""

from collections.abc import Sequence

from fedsim.config.composition import compose, named_folder
from fedsim.config.run_folders import run_folder
from fedsim.config.settings import settings_of
from fedsim.deployment.superlink import NAME as SUPERLINK
from fedsim.deployment.superlink import follow
from fedsim.engines import fork_server
from fedsim.output.progress import Reporter, console_reporter
from fedsim.output.results import Result
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run


def simulate(overrides: Sequence[str], *, progress: bool) -> Result:
    """Compose and check the settings and run them; the run directory is ``out_dir`` or a new one under ``outputs/``."""
    reporter = console_reporter() if progress else Reporter()
    config = compose(overrides)
    fork_server.start_early([config["engine"]])
    settings = settings_of(config, overrides)
    named = named_folder(settings.out_dir, settings.resume)
    if settings.engine["name"] == SUPERLINK:
        with run_folder(named) as run_dir:
            return follow(settings, overrides, run_dir, reporter)
    prepared = prepare(settings)
    reporter.say(str(prepared))
    with run_folder(named) as run_dir:
        return run(prepared, run_dir, reporter)
