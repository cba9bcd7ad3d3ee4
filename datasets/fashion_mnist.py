"""``dataset=fashion_mnist``: Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747) with its official training and test
set, in three equal channels.

Read from the first of these: ``dataset.parquet``, a folder or hub address with ``train*.parquet`` and
``test*.parquet``; ``fashion_mnist.npz`` in ``data_dir``, or the name in ``dataset.npz``; the four idx files, compressed
or not, in ``FashionMNIST/raw``, ``FashionMNIST`` or ``data_dir`` itself, fetched first with ``download=true``.
"""

from torchvision.datasets import FashionMNIST

from datasets.readers.idx import idx_set
from datasets.readers.official import OfficialHalves
from datasets.transforms import HorizontalFlip

CLASSES = (
    *("t_shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle_boot"),
)
load = OfficialHalves(
    name="fashion_mnist",
    classes=CLASSES,
    official=idx_set(FashionMNIST, "FashionMNIST/raw"),
    augmentations=(HorizontalFlip(),),
).load
