"""``dataset=domainnet``: six domains of DomainNet (Peng et al. 2019) with the ten classes that FedBN uses.

Folders ``DOMAIN/CLASS/*`` in ``data_dir`` or its ``DomainNet``; FedBN's lists of the split are used where they are
beside the domains, see ``datasets/readers/domain_folders.py``. Every domain trains on the same number of images,
``percent`` of the smallest one's training set, and validates on ``validation_percent`` of it. Images are 256x256,
flipped and rotated by up to 30 degrees in training, and not normalized.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets.readers.domain_folders import DomainFolders, share_of_smallest
from datasets.source import Source
from datasets.transforms import HorizontalFlip, Rotation, Transform

CLASSES = (
    *("bird", "feather", "headphones", "ice_cream", "teapot"),
    *("tiger", "whale", "windmill", "wine_glass", "zebra"),
)
SET = DomainFolders(
    dataset="domainnet",
    folder="DomainNet",
    domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    classes=tuple((name,) for name in CLASSES),
)


def load(
    data_dir: Path | None,
    domains: Sequence[str] = SET.domains,
    percent: float | None = 0.05,
    validation_percent: float | None = 0.05,
    image_size: int = 256,
    augment: bool = True,
) -> Source:
    """Load the source.

    Raises:
        UserError: If a domain or a class is missing, or a file is damaged.
    """
    transform = Transform((0.0,), (1.0,), (HorizontalFlip(), Rotation(30)) if augment else ())
    source = SET.load(data_dir, domains, image_size=image_size, transform=transform)
    return share_of_smallest(source, percent, validation_percent)
