"""``dataset=cifar100``: CIFAR-100 (Krizhevsky 2009) with its official training and test set and the 100 fine classes.

Read from the first of these: ``dataset.parquet``, a folder or hub address with ``train*.parquet`` and
``test*.parquet``; ``cifar100.npz`` in ``data_dir``, or the name in ``dataset.npz``; torchvision's files, fetched first
with ``download=true``. Training images are shifted by up to 4 pixels and flipped; ``cutout=16`` also cuts a square of
16 pixels out of each.
"""

from torchvision.datasets import CIFAR100

from datasets.readers.official import OfficialHalves
from datasets.readers.torchvision_files import HALVES, OfficialSet
from datasets.transforms import HorizontalFlip, RandomCrop

NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES = tuple(NAMES.split())
load = OfficialHalves(
    name="cifar100",
    classes=CLASSES,
    official=OfficialSet(CIFAR100, tuple(f"cifar-100-python/{file}" for file in ("train", "test", "meta")), *HALVES),
    augmentations=(RandomCrop(4), HorizontalFlip()),
    label_column="fine_label",
).load
