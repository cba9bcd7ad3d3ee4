"""``federation.csv``: what each client holds."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasets.federation import Federation
from datasets.source import Part

FILE = "federation.csv"
OF_CLASS = "train."
"""Begins the columns of the classes, which may be called as any other column."""


def clients_table(federation: Federation) -> pd.DataFrame:
    """Return one row per client: client, domain, images by part, label entropy, training images of each class."""
    counts = federation.label_counts()
    clients = pd.DataFrame(
        {
            "client": list(federation.clients),
            "domain": list(map(federation.domain_of, federation.clients)),
            "train": counts.sum(axis=1),
            "validation": [federation.num_images(client, Part.VALIDATION) for client in federation.clients],
            "test": [federation.num_images(client, Part.TEST) for client in federation.clients],
            "classes": (counts > 0).sum(axis=1),
            "entropy": label_entropy(counts).round(3),
        }
    )
    by_class = [f"{OF_CLASS}{name}" for name in federation.source.class_names]
    return pd.concat([clients, pd.DataFrame(counts, columns=by_class)], axis=1)


def label_entropy(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return that of each row of (clients, classes), in nats: 0 for one class, log(classes) for all equally."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    entropy: npt.NDArray[np.float64] = -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=1)
    return entropy
