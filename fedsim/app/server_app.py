"""The Flower ServerApp: ``flwr run . --stream --run-config 'overrides="strategy=fedbn rounds=3"'``.

The same loop, strategies and run directory as ``python run.py``; Flower brings the Grid. A relative ``out_dir`` is
taken from the folder in which Flower's SuperLink was started.
"""

import shlex
from functools import partial

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from datasets.devices import NAME as DEVICES
from datasets.devices import count_of_devices, device_federation
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.run_folders import run_folder
from fedsim.config.settings import Settings, settings_on_nodes
from fedsim.core.errors import FedsimError, UserError
from fedsim.deployment.partition_grid import PartitionGrid
from fedsim.deployment.superlink.events import EventReporter
from fedsim.methods.method import Method
from fedsim.output.progress import Reporter, logging_to
from fedsim.output.reporters import PlainReporter, QuietReporter
from fedsim.output.terminal import console, print_line, print_whole
from fedsim.report.run_table import run_table
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    followed = bool(context.run_config.get("followed", False))
    reporter = EventReporter(partial(print, flush=True)) if followed else PlainReporter(console(width=100))
    try:
        _play(grid, context, reporter)
    except FedsimError as error:
        if isinstance(reporter, EventReporter):
            reporter.failed(str(error), error.exit_status)
        else:
            reporter.say(f"error: {error}")
        raise  # so that Flower, too, knows that the run has failed


def _play(grid: Grid, context: Context, reporter: Reporter) -> None:
    settings = settings_on_nodes(shlex.split(str(context.run_config["overrides"])))
    if settings.quiet and isinstance(reporter, PlainReporter):
        reporter = QuietReporter(reporter.console)
    Method.of(settings.strategy)  # refuses an option that nobody takes before nodes are awaited
    with logging_to(reporter, verbose=settings.verbose):
        nodes, prepared = _prepared(grid, settings)
    with run_folder(settings.out_dir) as folder:
        run_dir = folder.absolute()
        result = run(prepared, run_dir, reporter, nodes)
    if isinstance(reporter, EventReporter):
        reporter.finished(run_dir)
        return
    if not settings.quiet:
        print_whole(run_table(result))
    print_line(f"run directory: {run_dir}")


def _prepared(grid: Grid, settings: Settings) -> tuple[PartitionGrid, Prepared]:
    """Return the grid, once the nodes have joined, and what was prepared for the run.

    The federation is built from the settings before the nodes are awaited. With ``dataset=devices`` it is the other way
    round: the nodes are awaited, and the federation is built from the numbers of images that they report.

    Raises:
        UserError: If diagnostics are asked for and a device does not answer measuring queries.
    """
    timeout, join_timeout = settings.round_timeout, settings.join_timeout
    if settings.dataset["name"] == DEVICES:
        nodes = PartitionGrid(grid, count_of_devices(settings), timeout, join_timeout=join_timeout)
        return nodes, prepare(settings, device_federation(settings, nodes.nodes, nodes.strangers))
    prepared = prepare(settings)

    def here() -> ClientApp:
        return ClientAppFactory(settings, prepared.federation)(prepared.devices[0])

    nodes = PartitionGrid(grid, len(prepared.federation.clients), timeout, here, join_timeout)
    if settings.diagnostics and not nodes.answers_measuring:
        raise UserError("diagnostics=true is not possible: it needs every device, with share-personal=true.")
    return nodes, prepared
