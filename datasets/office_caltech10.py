"""``dataset=office_caltech10``: amazon, caltech, dslr and webcam, ten classes (Gong et al. 2012), as FedBN uses them.

Folders ``DOMAIN/CLASS/*.jpg`` in ``data_dir`` or its ``office_caltech_10``; FedBN's lists of the split are used where
they are beside the domains, see ``datasets/readers/domain_folders.py``. Every domain trains on the same number of
images: ``percent`` of the smallest one's training set from the front of its list, and ``validation_percent`` from its
end for validation (62 and 50). Images are 256x256, flipped and rotated by up to 30 degrees in training, and not
normalized.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets.readers.domain_folders import DomainFolders, share_of_smallest
from datasets.source import Source
from datasets.transforms import HorizontalFlip, Rotation, Transform

SET = DomainFolders(
    dataset="office_caltech10",
    folder="office_caltech_10",
    domains=("amazon", "caltech", "dslr", "webcam"),
    classes=(
        *(("back_pack", "backpack"), ("bike",), ("calculator",), ("headphones",), ("keyboard",)),
        *(("laptop_computer", "laptop"), ("monitor",), ("mouse",), ("mug",), ("projector",)),
    ),
)


def load(
    data_dir: Path | None,
    domains: Sequence[str] = SET.domains,
    percent: float | None = 0.5,
    validation_percent: float | None = 0.4,
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
