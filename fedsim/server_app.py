"""The Flower ServerApp: ``flwr run . --stream --run-config 'overrides="strategy=fedbn rounds=3"'``.

The same loop, strategies and run directory as ``python run.py``; Flower brings the Grid. A relative ``out_dir`` is
taken from the folder in which Flower's SuperLink was started.
"""

import shlex
from datetime import datetime
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedsim.config import compose, run_directory
from fedsim.engines.flower import PartitionGrid
from fedsim.errors import UserError
from fedsim.progress import PlainReporter
from fedsim.report import print_whole, run_table
from fedsim.settings import Settings
from fedsim.simulation import prepare, run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    settings = Settings.from_config(compose(shlex.split(str(context.run_config["overrides"]))))
    if settings.resume is not None:
        raise UserError(f"resume={settings.resume} is not possible with flwr run: SuperNodes keep the clients' states.")
    prepared = prepare(settings)
    run_dir = Path(run_directory(settings.out_dir, None, datetime.now())).absolute()
    console = Console(width=100)
    result = run(prepared, run_dir, PlainReporter(console), PartitionGrid(grid, len(prepared.federation.clients)))
    print_whole(run_table(result))
    console.print(f"run directory: {run_dir}", highlight=False, soft_wrap=True)
