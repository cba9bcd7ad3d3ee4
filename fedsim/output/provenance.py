"""The data and software of a run, with which a resumed run is compared.

Other data are refused, since client states would then belong to other clients. Other software may change the last
digits, and is reported.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch

from datasets.federation import Federation
from datasets.fingerprint import Fingerprint
from fedsim.core.checkout import ROOT
from fedsim.core.errors import UserError
from fedsim.core.files import reading, write_atomically

log = logging.getLogger(__name__)

FILE = "provenance.json"
MEAN, STD, OWN_MODELS = "mean", "std", "own_models"
"""What the models are used with."""
PACKAGES = ("flwr", "torchvision", "numpy")


@dataclass(frozen=True)
class Provenance:
    """The content of ``provenance.json`` in the run directory, which describes the beginning of the run."""

    data: Fingerprint
    software: Mapping[str, str | None]
    """Versions, the commit of the checkout, and the kind of device that trains"""
    prediction: Mapping[str, Any] = field(default_factory=dict)
    """What else it takes to use the models: mean and deviation of the pixels of each channel, and whether clients may
    have models of their own; empty in runs of versions that did not store it"""

    @classmethod
    def of(cls, federation: Federation, device: torch.device, *, own_models: bool = False) -> Self:
        transform = federation.source.transform
        return cls(
            Fingerprint.of(federation),
            {**versions(), "commit": commit(), "device": device.type},
            {MEAN: list(transform.mean), STD: list(transform.std), OWN_MODELS: own_models},
        )

    def save_if_missing(self, run_dir: Path) -> None:
        """Write the file; that of a resumed run stays as it is, unless a version without it has made the run."""
        if (run_dir / FILE).is_file():
            return
        value = {"software": self.software, "data": self.data.to_json(), "prediction": self.prediction}
        text = json.dumps(value)
        write_atomically(run_dir / FILE, lambda path: path.write_text(f"{text}\n", encoding="utf-8"))

    @classmethod
    def load(cls, run_dir: Path) -> Self:
        """Read ``provenance.json`` of a run directory.

        Raises:
            UserError: If the file is damaged or cannot be read.
        """
        path = run_dir / FILE
        with reading(path, "put it back whole, or remove it to go on without asking whether the data are the same"):
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            data, software = Fingerprint.from_json(value["data"]), dict(value["software"])
            return cls(data, software, _prediction(value.get("prediction", {}), data.image_shape[0]))

    def hold_against(self, run_dir: Path) -> None:
        """Compare this, the provenance of a resumed run, with that in the run directory; log changes of software.

        Raises:
            UserError: If clients or domains have other data; names them.
        """
        if not os.path.lexists(run_dir / FILE):
            log.warning("%s has no %s: whether its data are still the same is not known", run_dir, FILE)
            return
        begun = self.load(run_dir)
        differences = begun.data.differences(self.data)
        if differences:
            raise UserError(
                f"resume={run_dir} is not possible with other data than it was begun with ({'; '.join(differences)}): "
                "put back what was there, or start a new run."
            )
        changed = [
            f"{name} {self.software.get(name)} instead of {before}"
            for name, before in begun.software.items()
            if self.software.get(name) != before
        ]
        if changed:
            log.warning("this run goes on with %s: its numbers may differ from here on", ", ".join(changed))


def _prediction(value: Mapping[str, Any], channels: int) -> Mapping[str, Any]:
    """Check what the models are used with.

    Raises:
        KeyError: If there is something of it, and not all.
        TypeError: If a mean or a deviation is no number.
        ValueError: If there is another number of them than of channels.
    """
    value = dict(value)
    for name in (MEAN, STD) if value else ():
        if len(value[name]) not in (1, channels):
            raise ValueError(f"it has {len(value[name])} {name}s for {channels} channels")
        if not all(isinstance(each, int | float) for each in value[name]):
            raise TypeError(f"a {name} is no number")
    return value


def versions() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        **{name: version(name) for name in PACKAGES},
        "torch": torch.__version__,
    }


@cache
def commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` if files have changed since; ``None`` outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
