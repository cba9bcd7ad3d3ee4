"""``dataset=domainnet``: six domains of DomainNet (Peng et al. 2019) with the ten classes that FedBN uses.

Folders ``DOMAIN/CLASS/*`` in ``data_dir`` or its ``DomainNet``; FedBN's lists of the split are used where they are
beside the domains, see ``datasets/readers/domain_folders.py``. Every domain trains on the same number of images,
``share`` of the smallest one's training set, and validates on ``validation_share`` of it. Images are 256x256,
flipped and rotated by up to 30 degrees in training, and not normalized.
"""

from datasets.readers.domain_folders import DomainFolders
from datasets.transforms import HorizontalFlip, Rotation

CLASSES = (
    *("bird", "feather", "headphones", "ice_cream", "teapot"),
    *("tiger", "whale", "windmill", "wine_glass", "zebra"),
)
SET = DomainFolders(
    dataset="domainnet",
    folder="DomainNet",
    domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
    classes=tuple((name,) for name in CLASSES),
    augmentations=(HorizontalFlip(), Rotation(30)),
    mean=(0.0,),
    std=(1.0,),
)
load = SET.load_equal_domains
