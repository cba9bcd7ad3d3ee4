"""``dataset=pacs``: art_painting, cartoon, photo and sketch, seven classes (Li et al. 2017, arXiv 1710.03077).

Folders ``DOMAIN/CLASS/*.jpg`` in ``data_dir`` or its ``PACS``; 80 % of each domain for training and 20 % for the test,
stratified by class with seed 0. Images are 224x224, flipped in training, normalized with ImageNet's mean and deviation.
"""

from datasets.readers.domain_folders import DomainFolders
from datasets.transforms import HorizontalFlip

SET = DomainFolders(
    dataset="pacs",
    folder="PACS",
    domains=("art_painting", "cartoon", "photo", "sketch"),
    classes=(("dog",), ("elephant",), ("giraffe",), ("guitar",), ("horse",), ("house",), ("person",)),
    augmentations=(HorizontalFlip(),),
)
load = SET.load
