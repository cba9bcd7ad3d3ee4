"""``fedsim.simulate``: a run from Python instead of the command line."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fedsim.checkout import put_on_path
from fedsim.config import compose, run_directory
from fedsim.progress import Reporter, console_reporter
from fedsim.results import Result


def simulate(overrides: Sequence[str], *, progress: bool) -> Result:
    """Compose, check and run; the run directory is ``out_dir`` or a new one under ``outputs/``."""
    put_on_path()
    from fedsim.settings import Settings  # these need the checkout on the path
    from fedsim.simulation import prepare, run
    from fedsim.superlink import NAME as SUPERLINK
    from fedsim.superlink import follow

    reporter = console_reporter() if progress else Reporter()
    settings = Settings.from_config(compose(overrides))
    run_dir = Path(run_directory(settings.out_dir, settings.resume, datetime.now()))
    if settings.engine["name"] == SUPERLINK:
        return follow(settings, overrides, run_dir, reporter)
    prepared = prepare(settings)
    reporter.say(str(prepared))
    return run(prepared, run_dir, reporter)
