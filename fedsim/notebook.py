"""``fedsim.simulate``: a run from Python instead of the command line."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fedsim.config import ROOT, compose, run_directory
from fedsim.errors import UserError
from fedsim.progress import Reporter
from fedsim.results import Result


def simulate(overrides: Sequence[str]) -> Result:
    """Composes, checks and runs; the run directory is ``out_dir`` or a new one under ``outputs/``."""
    _put_checkout_on_path()
    from fedsim.settings import Settings  # these need the checkout on the path
    from fedsim.simulation import prepare, run
    from fedsim.superlink import NAME as SUPERLINK
    from fedsim.superlink import follow

    settings = Settings.from_config(compose(overrides))
    run_dir = Path(run_directory(settings.out_dir, settings.resume, datetime.now()))
    if settings.engine["name"] == SUPERLINK:
        return follow(settings, overrides, run_dir, Reporter())
    return run(prepare(settings), run_dir, Reporter())


def _put_checkout_on_path() -> None:
    """Makes ``strategies``, ``clients`` and ``datasets`` importable from wherever the notebook runs."""
    other = sys.modules.get("datasets")
    if other is not None and not str(other.__file__).startswith(str(ROOT)):
        raise UserError(
            f"the package datasets of {other.__file__} is already imported, and fedsim has one of the same name: "
            "choose a fresh Python process for fedsim."
        )
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
