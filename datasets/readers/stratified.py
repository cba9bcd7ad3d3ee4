"""FedBN's split of a domain that is to be split anew."""

import numpy as np

from datasets.source import Indices


def stratified_split(labels: Indices, test_share: float = 0.2) -> tuple[Indices, Indices]:
    """Places of the training and of the test images, each in random order: scikit-learn's split with seed 0."""
    # Here, since a real device would load it, for seconds, with every message.
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits=1, test_size=test_share, random_state=0)
    train, test = next(splitter.split(np.zeros(len(labels)), labels))
    return train.astype(np.int64), test.astype(np.int64)
