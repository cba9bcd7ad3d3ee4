"""The pictures in the directory of a run: ``plots/``."""

from datasets.federation import Federation
from fedsim.output.results import Result
from fedsim.report.class_pictures import plot_classes
from fedsim.report.diagnostics_pictures import plot_diagnostics
from fedsim.report.federation_pictures import plot_federation
from fedsim.report.plots import plot_run


def draw_run(result: Result, federation: Federation, shots: str) -> None:
    """Draw everything that a finished run has recorded, each into a file of its own."""
    folder = result.run_dir / "plots"
    plot_run(result.clients, result.rounds, folder)
    if not federation.on_devices:
        plot_federation(federation, folder, shots)
    if result.classes is not None:
        plot_classes(result.classes, folder / "classes.png")
    if result.diagnostics is not None:
        plot_diagnostics(result.diagnostics, folder / "diagnostics.png")
