"""From ``dataset=`` and ``split=`` to a federation."""

from pathlib import Path

from datasets.devices import DeviceData
from datasets.federation import Federation
from datasets.source import Source
from datasets.splits.build import build_split
from fedsim.config.binding import instantiate
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError


def build_federation(settings: Settings) -> Federation:
    """Load the images and split them into clients; the seed determines the split, not the images.

    Raises:
        UserError: If files are missing or damaged, or options are wrong or contradict each other.
    """
    data_dir = None if settings.data_dir is None else Path(settings.data_dir)
    offered = {"data_dir": data_dir, "download": settings.download}
    source = instantiate("dataset", settings.dataset, offered=offered)
    if isinstance(source, DeviceData):
        raise UserError("dataset=devices is images that real devices hold: run it with flwr run, see docs/devices.md.")
    assert isinstance(source, Source)
    if source.num_classes < 2:
        one = ", ".join(source.class_names) or "none"
        raise UserError(
            f"dataset={settings.dataset['name']} has one class, {one}, and nothing to tell apart: give it two or more "
            "(where data_dir names a folder of DOMAIN/CLASS folders, it may be one too high or too low)."
        )
    return build_split(source, settings.split, settings.seeds.split)
