"""``dataset=cifar10``: CIFAR-10 (Krizhevsky 2009) with its official training and test set.

Read from the first of these: ``dataset.parquet``, a folder or hub address with ``train*.parquet`` and
``test*.parquet``; ``cifar10.npz`` in ``data_dir``, or the name in ``dataset.npz``; torchvision's files, fetched first
with ``download=true``. Training images are shifted by up to 4 pixels and flipped; ``cutout=16`` also cuts a square of
16 pixels out of each.
"""

from torchvision.datasets import CIFAR10

from datasets.readers.official import OfficialHalves
from datasets.readers.torchvision_files import HALVES, OfficialSet
from datasets.transforms import HorizontalFlip, RandomCrop

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
load = OfficialHalves(
    name="cifar10",
    classes=CLASSES,
    official=OfficialSet(CIFAR10, tuple(f"cifar-10-batches-py/{batch}" for batch in BATCHES), *HALVES),
    augmentations=(RandomCrop(4), HorizontalFlip()),
).load
