"""A sweep that can go on: its words are stored in its folder, beside the folders of its jobs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fedsim.config.overrides import parse, path_word
from fedsim.config.paths import expanded
from fedsim.core.errors import UserError
from fedsim.core.files import make_folder, reading, write_atomically
from fedsim.core.run_files import PAGE

FILE = "sweep.json"
OF_A_COMMAND = ("out_dir", "quiet")
"""Settings that concern one command and not the sweep: with ``resume`` they may be others."""


@dataclass(frozen=True)
class Sweep:
    """The words of ``python run.py -m``, without ``out_dir`` and ``quiet``, and the configuration that they change."""

    words: Sequence[str]
    configuration: tuple[Path, str]
    """The folder and the name of the configuration"""

    @classmethod
    def named_by(cls, overrides: Sequence[str]) -> tuple[Path, Self] | None:
        """Return the folder and the sweep if ``resume`` names one; ``None`` if it does not.

        Raises:
            UserError: If there are further settings, or the file of the sweep is damaged.
        """
        given = [override for override in map(parse, overrides) if override.key_or_group == "resume"]
        if len(given) != 1 or not isinstance(given[0].value(), str | int):
            return None
        folder = Path(expanded("resume", given[0].value()))
        path = folder / FILE
        if not path.is_file():
            return None
        for text in overrides:
            if parse(text).key_or_group not in ("resume", "quiet"):
                raise UserError(f"{text} cannot be given with resume={folder}, a sweep: its jobs keep their settings.")
        with reading(path, "put it back whole, or resume the folders in it one by one"):
            stored: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            words, (config_dir, config_name) = stored["words"], stored["configuration"]
            if not isinstance(words, list) or not all(isinstance(each, str) for each in (*words, config_name)):
                raise TypeError("its words are no texts")
            for word in words:
                _check(word)
            return folder, cls(words, (Path(config_dir), config_name))

    def save(self, folder: Path) -> None:
        """Write ``sweep.json``.

        Raises:
            FileError: If it cannot be written.
        """
        make_folder(folder)
        config_dir, config_name = self.configuration
        words = [word for word in self.words if parse(word).key_or_group not in OF_A_COMMAND]
        text = json.dumps({"words": words, "configuration": [str(config_dir), config_name]}) + "\n"
        write_atomically(folder / FILE, lambda path: path.write_text(text, encoding="utf-8"))

    def words_in(self, folder: Path, overrides: Sequence[str] = ()) -> list[str]:
        """Return the words with which Hydra runs the jobs in this folder, quietly or not as ``overrides`` have it."""
        quiet = [text for text in overrides if parse(text).key_or_group == "quiet"]
        return [*self.words, path_word("out_dir", str(folder)), *quiet]


def _check(word: str) -> None:
    """Check that a stored word can be read.

    Raises:
        ValueError: If it cannot.
    """
    try:
        parse(word)
    except UserError as error:
        raise ValueError(str(error)) from error


def is_finished(run_dir: Path) -> bool:
    """Return whether a job has written everything."""
    return (run_dir / PAGE).is_file()


def finished_of(sweep: Path, jobs: int) -> list[int]:
    """Return the numbers of the jobs in a sweep's folder that have written everything."""
    return [number for number in range(jobs) if is_finished(sweep / str(number))]


def finished_jobs(sweep: Path) -> int:
    """Return how many jobs in a sweep's folder, whatever their folders are called, have written everything."""
    return sum(path.parent != sweep for path in sweep.rglob(PAGE))


def is_begun(run_dir: Path) -> bool:
    """Return whether a job has left something that ``resume`` can use."""
    return (run_dir / "config.yaml").is_file()
