"""What a run directory must be before a run begins in it or goes on."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from fedsim.core.errors import UserError
from fedsim.core.files import why
from fedsim.core.run_files import PAGE, SUMMARY
from fedsim.output.federation_table import FILE as FEDERATION
from fedsim.output.model_files import CLIENTS, EVALUATION, MODEL, SHARED
from fedsim.output.provenance import FILE as PROVENANCE
from fedsim.trackers.tracking import FILE as TRACKERS

NEEDED_BYTES = 4096
"""Bytes that must be free on the disk for a run to begin."""
OF_A_RUN = (
    *(
        "clients.csv",
        "rounds.csv",
        "classes.csv",
        "diagnostics.csv",
        "participation.csv",
        SUMMARY,
        PROVENANCE,
        FEDERATION,
        TRACKERS,
        "checkpoints",
    ),
    *(MODEL, SHARED, EVALUATION, CLIENTS, "plots", PAGE),
)
"""The files and folders that a run writes beside its configuration."""
FOLDERS = ("checkpoints", CLIENTS, "plots")
"""Those of them that are folders."""
FORMS = (".csv", ".html", ".json", ".png", ".safetensors", ".yaml")
"""Ends of the names of files that a run writes."""


def check_run_dir(run_dir: Path) -> None:
    """Make the directory and try to write there.

    Raises:
        UserError: If that fails, or the directory already holds a run, or files that a run would overwrite or resume
            from.
    """
    _try_to_write(run_dir, "out_dir")
    if os.path.lexists(run_dir / "config.yaml"):
        raise already_holds_a_run(run_dir)
    models = sorted(path.name for path in run_dir.glob("*.safetensors"))  # a method may export further ones
    there = next((name for name in (*OF_A_RUN, *models) if os.path.lexists(run_dir / name)), None)
    if there is not None:
        raise UserError(
            f"out_dir={run_dir} already holds {there}, which a run would take for its own: choose a new directory."
        )


def check_resumed_dir(run_dir: Path) -> None:
    """Try to write in the directory of a run that goes on.

    Raises:
        UserError: If that fails, or a folder is where the run writes a file, or the other way round.
    """
    _try_to_write(run_dir, "resume")
    _refuse_what_is_in_the_way(run_dir)


def _try_to_write(run_dir: Path, key: str) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=run_dir) as file:
            file.write(b"\0" * NEEDED_BYTES)  # on a full disk, an empty file can still be made
    except OSError as error:
        raise UserError(
            f"{key}={run_dir} cannot be written ({why(error)}): choose a directory with space that you may write to."
        ) from error


def _refuse_what_is_in_the_way(run_dir: Path) -> None:
    """Refuse folders where the run will write files, and files where it will make folders, before it computes anything.

    Raises:
        UserError: If there is one; names it.
    """
    for folder in (run_dir, *(run_dir / name for name in FOLDERS)):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is no folder, where the run writes files: remove it.")
        for path in folder.glob("*.*"):
            if path.suffix in FORMS and path.is_dir():
                raise UserError(f"{path} is a folder, where the run writes a file: remove it.")


def already_holds_a_run(run_dir: Path) -> UserError:
    return UserError(f"out_dir={run_dir} already holds a run: choose another directory, or resume={run_dir}.")
