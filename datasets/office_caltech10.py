"""``dataset=office_caltech10``: amazon, caltech, dslr and webcam, ten classes (Gong et al. 2012), as FedBN uses them.

Folders ``DOMAIN/CLASS/*.jpg`` in ``data_dir`` or its ``office_caltech_10``; FedBN's lists of the split are used where
they are beside the domains, see ``datasets/readers/domain_folders.py``. Every domain trains on the same number of
images: ``share`` of the smallest one's training set from the front of its list, and ``validation_share`` from its
end for validation (62 and 50). Images are 256x256, flipped and rotated by up to 30 degrees in training, and not
normalized.
"""

from datasets.readers.domain_folders import DomainFolders
from datasets.transforms import HorizontalFlip, Rotation

SET = DomainFolders(
    dataset="office_caltech10",
    folder="office_caltech_10",
    domains=("amazon", "caltech", "dslr", "webcam"),
    classes=(
        *(("back_pack", "backpack"), ("bike",), ("calculator",), ("headphones",), ("keyboard",)),
        *(("laptop_computer", "laptop"), ("monitor",), ("mouse",), ("mug",), ("projector",)),
    ),
    augmentations=(HorizontalFlip(), Rotation(30)),
    mean=(0.0,),
    std=(1.0,),
)
load = SET.load_equal_domains
