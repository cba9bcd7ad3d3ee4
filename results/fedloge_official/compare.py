"""FedLoGe here against the authors' code: ``python -m results.fedloge_official.compare --code DIR --data FILE``.

``DIR`` holds the folders ``util`` and ``model`` of the authors' repository (f4cac526) and ``FILE`` is
``cifar10_lt10.npz``. Each row that is printed is one comparison, a lone number the largest difference of any entry.
``--full`` adds the frames after all 10,000 steps, half a minute's work.
"""

import argparse
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from results.fedloge_official.frames import frames
from results.fedloge_official.official import authors
from results.fedloge_official.protocol import protocol, shot_rules
from results.fedloge_official.training import networks, training_to_predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="To copy construct from a tensor")
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_: tensor):
        theirs = authors(given.code)
        frames(theirs, given.full)
        with np.load(given.data) as data:
            networks(theirs, data)
            training_to_predictions(theirs, data)
        shot_rules(theirs)
        protocol(theirs)


if __name__ == "__main__":
    main()
