"""Execution of a prepared run, from the start to the finished run directory."""

import logging
from contextlib import nullcontext
from pathlib import Path

from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.binding import instantiate
from fedsim.config.resuming import kept_freeze, refuse_other_rounds
from fedsim.core import collector
from fedsim.engines.grid import FederationGrid, LocalGrid
from fedsim.output.progress import Reporter, logging_to
from fedsim.output.provenance import Provenance
from fedsim.output.recorder import Recorder
from fedsim.output.results import Result, read_result
from fedsim.report.labels import group_by_settings
from fedsim.report.page.writing import write_page
from fedsim.server.loop import FederatedLoop
from fedsim.server.preparation import Prepared
from fedsim.server.start_warnings import warn_at_start
from fedsim.trackers.tracking import Tracking

log = logging.getLogger(__name__)


def run(prepared: Prepared, run_dir: Path, reporter: Reporter, grid: FederationGrid | None = None) -> Result:
    """Run on the engine of the settings, or on ``grid`` if Flower's runtime provides one, and fill the run directory.

    Raises:
        UserError: If the directory cannot be used, or the directory of a resumed run is damaged or of other data.
        FileError: If a file cannot be written.
        RoundFailed: If too many clients fail.
    """
    settings = prepared.settings
    recorder = Recorder(run_dir, settings, Tracking(prepared.trackers))
    with logging_to(reporter, verbose=settings.verbose and not settings.quiet):
        try:
            provenance = _begun(prepared, recorder)
            warn_at_start(prepared)
            with nullcontext(grid) if grid is not None else start_engine(prepared) as engine:
                loop = FederatedLoop(prepared, engine, recorder, reporter)
                if settings.resume is not None:  # only now is it known that the run can go on
                    _describe(prepared, provenance, recorder)
                loop.run()
            recorder.finish_tracking()
        except BaseException:
            recorder.take_back()
            raise
        finally:
            reporter.close()
            collector.run_is_over()
    result = read_result(run_dir)
    if settings.pictures:
        from fedsim.report.run_pictures import draw_run  # loads matplotlib, for which no round should wait

        draw_run(result, prepared.federation, settings.shots)
    write_page(group_by_settings([result]), run_dir, figures=settings.pictures)
    return result


@collector.paused()
def _begun(prepared: Prepared, recorder: Recorder) -> Provenance:
    """Open the run directory, after a look at whether a resumed run has the data that it was begun with."""
    settings, run_dir = prepared.settings, recorder.run_dir
    provenance = Provenance.of(prepared.federation, prepared.devices[0], own_models=prepared.own_models)
    if settings.resume is not None:
        provenance.hold_against(run_dir)
        refuse_other_rounds(run_dir, settings.rounds, prepared.strategy.depends_on_rounds)
        if kept := kept_freeze(run_dir, settings.norm):
            log.warning("%s", kept)
    recorder.open()
    if settings.resume is None:
        _describe(prepared, provenance, recorder)
    return provenance


def _describe(prepared: Prepared, provenance: Provenance, recorder: Recorder) -> None:
    """Write what a run directory has of the data and the software."""
    provenance.save_if_missing(recorder.run_dir)
    recorder.record_federation(prepared.federation)


@collector.paused()
def start_engine(prepared: Prepared) -> LocalGrid:
    """Return the ``Grid`` that the setting ``engine`` names, ready for messages."""
    factory = ClientAppFactory(prepared.settings, prepared.federation)
    grid = instantiate("engine", prepared.settings.engine, factory, len(prepared.federation.clients), prepared.devices)
    assert isinstance(grid, LocalGrid)
    return grid
