"""``dataset=femnist``: handwritten characters with the ids of their writers (LEAF, Caldas et al. 2018, arXiv
1812.01097).

Read from parquet files with the columns image, ``label_column`` and ``writer_column``, as in
``hf://datasets/flwrlabs/femnist``: from the address or folder ``dataset.parquet``, else from ``data_dir``. Of each
writer's images, the first 90 % in a random order (seed 0) are for training. ``split=naturalid`` makes every writer a
client.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from datasets.readers.decode import load_source
from datasets.readers.finding import data_folder
from datasets.readers.labelled import Labelled, OnDisk
from datasets.readers.parquet import find_parquet, read_parquet
from datasets.source import Indices, Part, Source
from datasets.transforms import PLUS_MINUS_ONE
from fedsim.core.errors import UserError

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TEST_SHARE = 0.1


def load(
    data_dir: Path | None,
    parquet: str | None = None,
    label_column: str = "character",
    writer_column: str = "writer_id",
    image_size: int = 28,
) -> Source:
    """Load the source.

    Raises:
        UserError: If a file is missing, damaged or lacks a column; names it.
    """
    folder = str(data_folder("femnist", data_dir, "its *.parquet")) if parquet is None else parquet
    files = find_parquet(folder, "")
    if not files:
        raise UserError(
            f"femnist is not there: looked for *.parquet in {folder}; choose another data_dir, or dataset.parquet."
        )

    def read() -> Labelled:
        images, labels, table = read_parquet(files, label_column, len(CLASSES), writer_column)
        writers = np.asarray(pd.factorize(table[writer_column], sort=True)[0], np.int64)
        return Labelled(folder, images, labels, _parts(writers), writers)

    found = {"femnist": OnDisk((), read, version=str((files, label_column, writer_column)))}
    return load_source("femnist", found, CLASSES, image_size=image_size, transform=PLUS_MINUS_ONE)


def _parts(writers: Indices) -> npt.NDArray[np.uint8]:
    """Return the part of each image: a tenth of each writer's images, rounded down, is for the test."""
    shuffled = np.random.default_rng(0).permutation(len(writers))
    by_writer = shuffled[np.argsort(writers[shuffled], kind="stable")]
    counts = np.bincount(writers)
    rank = np.arange(len(writers)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_test = rank >= np.repeat(counts - (counts * TEST_SHARE).astype(int), counts)
    parts = np.empty(len(writers), np.uint8)
    parts[by_writer] = np.where(is_test, Part.TEST, Part.TRAIN)
    return parts
