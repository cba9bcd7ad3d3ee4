"""FedBN's split of a domain into training and test images."""

import numpy as np

from datasets.source import Indices


def stratified_split(labels: Indices, test_share: float = 0.2) -> tuple[Indices, Indices]:
    """Return the indices of training and test images, each in random order: scikit-learn's split with seed 0."""
    # Imported here, since otherwise a real device would load it with every message, which takes seconds.
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits=1, test_size=test_share, random_state=0)
    train, test = next(splitter.split(np.zeros(len(labels)), labels))
    return train.astype(np.int64), test.astype(np.int64)
