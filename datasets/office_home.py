"""``dataset=office_home``: Art, Clipart, Product and Real World, 65 classes (Venkateswara et al. 2017, arXiv
1706.07522).

Folders ``DOMAIN/CLASS/*.jpg`` in ``data_dir`` or its ``OfficeHome``; 80 % of each domain for training and 20 % for the
test, stratified by class with seed 0. Images are 224x224, flipped in training, normalized with ImageNet's mean and
deviation.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets.readers.domain_folders import DomainFolders, share_of_each
from datasets.source import Source
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, HorizontalFlip, Transform

NAMES = """
    Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards Computer
    Couch Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder Fork Glasses
    Hammer Helmet Kettle Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug Notebook Oven Pan
    Paper_Clip Pen Pencil Postit_Notes Printer Push_Pin Radio Refrigerator Ruler Scissors Screwdriver Shelf Sink
    Sneakers Soda Speaker Spoon TV Table Telephone ToothBrush Toys Trash_Can Webcam
"""
CLASSES = tuple(NAMES.split())
SET = DomainFolders(
    dataset="office_home",
    folder="OfficeHome",
    domains=("Art", "Clipart", "Product", "Real World"),
    classes=tuple((name,) for name in CLASSES),
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
