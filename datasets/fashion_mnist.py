"""``dataset=fashion_mnist`` (Xiao et al. 2017, arXiv 1708.07747), in its official halves, with three equal channels.

Read from the first of these: ``dataset.parquet``, a folder or hub address with ``train*.parquet`` and
``test*.parquet``; ``dataset.npz`` in ``data_dir``; torchvision's files, fetched first with ``download=true``.
"""

from torchvision.datasets import FashionMNIST

from datasets.readers.official import OfficialHalves
from datasets.readers.torchvision_files import HALVES, IDX_FILES, OfficialSet
from datasets.transforms import HorizontalFlip

CLASSES = (
    *("t_shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle_boot"),
)
load = OfficialHalves(
    name="fashion_mnist",
    classes=CLASSES,
    official=OfficialSet(FashionMNIST, tuple(f"FashionMNIST/raw/{file}" for file in IDX_FILES), *HALVES),
    augmentations=(HorizontalFlip(),),
).load
