"""``dataset=devices``: images that stay on real devices, each device's in its own ``data-dir``.

A device's folder holds either ``data.npz`` (``train_images``, ``train_labels``, ``test_images``, ``test_labels``) or
image files in ``train/CLASS/`` and ``test/CLASS/``; a class may be missing. The server's settings name the classes and
the size of the images, but not their folder. The server learns how many images a device has, but no label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.examples import Examples
from datasets.federation import Federation
from datasets.partitions import NONE, Partition
from datasets.readers.arrays import read_npz
from datasets.readers.decode import check_image_size, load_source
from datasets.readers.image_folder import FolderFiles, listed
from datasets.readers.labelled import OnDisk
from datasets.readers.listing import list_images, loose_images, subfolders
from datasets.source import Indices, Part, Source
from datasets.transforms import HorizontalFlip, Transform
from fedsim.config.binding import instantiate
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.names import find_name
from fedsim.deployment.devices.node import NodeConfig, NodeProfile

NAME = "devices"
ARCHIVE = "data.npz"
SPLIT = {
    "steps": {"domain": "datasets.splits.domain.ByDomain"},
    "clients_per_domain": None,
    "test": "domain",
    "leave_out": None,
    "validation": 0.0,
    "drop_empty": False,
}
"""The default of ``split``, the only one that makes sense: images of a device are not divided further."""


@dataclass(frozen=True)
class DeviceData:
    """The properties that the images of all devices have in common.

    Raises:
        UserError: If an option is not possible.
    """

    classes: int | Sequence[str] = 10
    image_size: int = 32
    channels: int = 3
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)
    augment: bool = False

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        names = self.classes if isinstance(self.classes, list | tuple) else None
        counted = isinstance(self.classes, int) and not isinstance(self.classes, bool) and self.classes >= 2
        if not counted and (names is None or len(names) < 2 or len(set(map(str, names))) < len(names)):
            raise UserError(
                f"dataset.classes={self.classes} is not possible: choose a whole number of at least 2, or a list of "
                "names."
            )
        if self.channels not in (1, 3):
            raise UserError(f"dataset.channels={self.channels} is not possible: choose 1 or 3.")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.classes) if isinstance(self.classes, int) else self.classes))

    @property
    def transform(self) -> Transform:
        return Transform.of(self.mean, self.std, (HorizontalFlip(),) if self.augment else ())

    def read(self, folder: Path, domain: str) -> Source:
        """Read the images in a device's folder as a source of one domain.

        Raises:
            UserError: If a file or folder is missing, damaged or of no class; names it.
        """
        archive = folder / ARCHIVE
        if archive.is_file():
            on_disk = OnDisk((archive,), lambda: read_npz(archive))
        else:
            train, test = (self._listed(folder / part) for part in ("train", "test"))
            on_disk = OnDisk(
                (*train.labels, *test.labels),
                lambda: listed(folder, train.as_set(), test.as_set()),
                left_out=(*train.left_out, *test.left_out),
            )
        return load_source(
            *(NAME, {domain: on_disk}, self.class_names),
            image_size=self.image_size,
            transform=self.transform,
            channels=self.channels,
        )

    def _listed(self, folder: Path) -> FolderFiles:
        if not folder.is_dir():
            raise UserError(f"{folder} is missing: a device's data-dir holds {ARCHIVE}, or the folders train and test.")
        labels: dict[Path, int] = {}
        left_out = loose_images(folder)
        for name in subfolders(folder):
            label = find_name(name, self.class_names)
            if label is None:
                raise UserError(f"{folder / name} is no class: dataset.classes has {', '.join(self.class_names)}.")
            listing = list_images(folder / name)
            labels |= dict.fromkeys(listing.images, self.class_names.index(label))
            left_out += listing.left_out
        return FolderFiles(labels, tuple(left_out))


def classes_found(folder: Path) -> int | list[str]:
    """Return a value of ``dataset.classes`` for the images in a device's folder, where no setting names the classes.

    Raises:
        UserError: If a folder cannot be read, or the archive is damaged.
    """
    archive = folder / ARCHIVE
    if archive.is_file():
        return max(2, int(read_npz(archive).labels.max(initial=0)) + 1)
    parts = [folder / part for part in ("train", "test") if (folder / part).is_dir()]
    names = sorted({name for part in parts for name in subfolders(part)})
    return names if len(names) >= 2 else 2


def own_federation(settings: Settings, node: NodeConfig) -> Federation:
    """Return a device's own images as a federation in which all clients with lower numbers are empty.

    Raises:
        UserError: If the device has no ``data-dir``, or there are no usable images in it.
    """
    if node.data_dir is None:
        raise UserError(
            'dataset=devices needs each device\'s own images: give node-config a data-dir, as data-dir="/data".'
        )
    domain = node.domain or f"device{node.partition}"
    source = _device_data(settings).read(node.data_dir, domain)
    others = [Partition(client, domain, NONE, NONE) for client in range(node.partition)]
    mine = Partition(node.partition, domain, source.indices(0, Part.TRAIN), source.indices(0, Part.TEST))
    return Federation(source, [*others, mine])


class DeviceFederation(Federation):
    """The server's view of a federation of devices: the numbers of images of each client, and no image."""

    on_devices = True

    def __init__(self, data: DeviceData, nodes: Mapping[int, NodeProfile]) -> None:
        domains = [node.domain or f"device{partition}" for partition, node in sorted(nodes.items())]
        names = tuple(dict.fromkeys(domains))
        source = Source(
            images=np.zeros((0, data.channels, data.image_size, data.image_size), np.uint8),
            labels=NONE,
            domains=NONE,
            parts=np.zeros(0, np.uint8),
            domain_names=names,
            class_names=data.class_names,
            transform=data.transform,
        )
        super().__init__(source, [Partition(client, domain, NONE, NONE) for client, domain in enumerate(domains)])
        self._images = [node.images for _, node in sorted(nodes.items())]

    def num_images(self, client: int, part: Part) -> int:
        return dict(zip((Part.TRAIN, Part.VALIDATION, Part.TEST), self._images[client], strict=True))[part]

    def examples(self, indices: Indices) -> Examples:
        raise UserError("the images of dataset=devices are on the devices: choose settings that need none here.")


def device_federation(
    settings: Settings, nodes: Mapping[int, NodeProfile], strangers: Sequence[str] = ()
) -> DeviceFederation:
    """Return the federation of the devices.

    Args:
        settings: The settings of the run.
        nodes: The profile of each client's node.
        strangers: Phrases about nodes that are online and have not reported their client, for the error message.

    Raises:
        UserError: If a client has no device, or the device has no images to train or to test on.
    """
    clients = range(count_of_devices(settings) or len(nodes))
    for client in clients:
        if client not in nodes:
            there = "; ".join([f"no device has joined with partition-id={client}", *strangers])
            raise UserError(
                f"split.num_clients={len(clients)} is not possible, {there}: start it, choose a longer join_timeout, "
                "or leave split.num_clients out for the devices that are there."
            )
        train, _, test = nodes[client].images
        if not train or not test:
            raise UserError(f"client {client} has {train} images to train and {test} to test on: it needs both.")
    return DeviceFederation(_device_data(settings), {client: nodes[client] for client in clients})


def count_of_devices(settings: Settings) -> int | None:
    """Return the number of clients; ``None`` for as many as there are devices.

    Raises:
        UserError: If an option of ``split`` has no meaning for devices, or the number is not possible.
    """
    count = settings.split["num_clients"]
    odd = {key: settings.split.get(key) for key, usual in SPLIT.items() if settings.split.get(key) != usual}
    if settings.split.get("pooled"):
        raise UserError(
            "split.pooled=true is not possible where every device has its own images: leave it out, or choose another "
            "strategy."
        )
    if odd:
        key, value = next(iter(odd.items()))
        raise UserError(f"split.{key}={value} has no meaning where every device has its own images: leave it out.")
    if count is None:
        return None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(
            f"split.num_clients={count} is not possible: choose how many devices dataset=devices has, or null for all "
            "that are there."
        )
    return count


def _device_data(settings: Settings) -> DeviceData:
    data = instantiate("dataset", settings.dataset)
    assert isinstance(data, DeviceData)
    return data
