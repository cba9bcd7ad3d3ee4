"""What a client is handed: normalized batches, its domain's test set, and the label counts of everyone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.examples import Examples
from datasets.federation import Federation
from datasets.partitions import Partition

ROOT = Path(__file__).parent.parent.parent


def test_batches_are_normalized_to_plus_minus_one() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(3, 1, 1, 1)
    pixels, labels = Examples(images, torch.tensor([4, 5, 6])).batch(torch.tensor([1, 0, 2]))
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels.flatten(), torch.tensor([1.0, -1.0, 51 / 127.5 - 1]))
    assert labels.tolist() == [5, 4, 6]


def test_examples_are_those_of_the_partition(federation: Federation) -> None:
    partition = federation.partitions[3]
    examples = federation.examples(partition.train)
    assert len(examples) == 40
    assert np.array_equal(examples.images.numpy(), federation.source.images[partition.train])
    assert np.array_equal(examples.labels.numpy(), federation.source.labels[partition.train])


def test_label_counts_add_up_to_the_training_images(federation: Federation) -> None:
    counts = federation.label_counts()
    assert counts.shape == (6, 10)
    labels = federation.source.labels[federation.partitions[2].train]
    assert counts[2].tolist() == [int((labels == digit).sum()) for digit in range(10)]


def test_a_client_with_a_test_set_of_its_own_is_told_from_one_tested_on_its_domain(federation: Federation) -> None:
    first = federation.partitions[0]
    own = Partition(0, first.domain, first.train, federation.domain_tests[first.domain][::2])
    changed = Federation(federation.source, [own, *federation.partitions[1:]])
    assert federation.test_domains(0) == (first.domain,)
    assert changed.test_domains(0) == ()
    assert changed.test_domains(1) == (federation.partitions[1].domain,)


@pytest.mark.nightly
def test_flower_ray_torchvision_and_pandas_work_with_our_datasets_first_on_the_path() -> None:
    """They must not mean Hugging Face's package of the same name."""
    program = (
        "import datasets, sys; import flwr.app, flwr.serverapp, flwr.clientapp, ray, torchvision, pandas, sklearn;"
        f"assert datasets.__file__.startswith({str(ROOT)!r}), datasets.__file__"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
