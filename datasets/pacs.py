"""``dataset=pacs``: art_painting, cartoon, photo and sketch, seven classes (Li et al. 2017, arXiv 1710.03077).

Folders ``DOMAIN/CLASS/*.jpg`` in ``data_dir`` or its ``PACS``; 80 % of each domain for training and 20 % for the test,
stratified by class with seed 0. Images are 224x224, flipped in training, normalized with ImageNet's mean and deviation.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets.readers.domain_folders import DomainFolders, share_of_each
from datasets.source import Source
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, HorizontalFlip, Transform

SET = DomainFolders(
    dataset="pacs",
    folder="PACS",
    domains=("art_painting", "cartoon", "photo", "sketch"),
    classes=(("dog",), ("elephant",), ("giraffe",), ("guitar",), ("horse",), ("house",), ("person",)),
)


def load(
    data_dir: Path | None,
    domains: Sequence[str] = SET.domains,
    percent: float | None = None,
    image_size: int = 224,
    augment: bool = True,
) -> Source:
    """Load the source.

    Raises:
        UserError: If a domain or a class is missing, or a file is damaged.
    """
    transform = Transform(IMAGENET_MEAN, IMAGENET_STD, (HorizontalFlip(),) if augment else ())
    return share_of_each(SET.load(data_dir, domains, image_size=image_size, transform=transform), percent)
