"""A tiny, undamaged one of every file that fedsim reads: runs, weights, states, keys, and sets of images."""

import gzip
import io
import pickle
from hashlib import md5
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from PIL import Image
from safetensors.torch import save_file
from torchvision.datasets import CIFAR10, SVHN

from datasets import office_caltech10
from fedsim.app.sweep import Sweep
from fedsim.config.composition import CONFIG_DIR
from fedsim.deployment.devices.authority import Authority
from fedsim.deployment.devices.state import StateDir
from fedsim.messages.arrays import to_record
from fedsim.methods.client_state import PERSONAL, TRAINED
from fedsim.models import CNNSmall
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings
from tests.datasets import conftest as forms

SMALL = (
    *("rounds=1", "engine=inline", "strategy=fedbn", "dataset.train_per_domain=24", "dataset.test_per_domain=6"),
    *("split.leave_out=[texture,street,font]", "split.validation=0.2", "batch_size=8"),
)


def write_runs(root: Path) -> None:
    for name, words in (("run", ()), ("other", ("seed=1",))):
        run(prepare(small_settings(*SMALL, *words)), root / name, Reporter())
    Sweep(["lr=0.1,0.2", "strategy=fedbn"], (CONFIG_DIR, "config")).save(root / "sweep")
    torch.manual_seed(0)
    weights = CNNSmall(10).state_dict()
    save_file(weights, root / "w.safetensors")
    torch.save(weights, root / "w.pt")
    kept = RecordDict({PERSONAL: to_record({"bn": torch.ones(3)}), TRAINED: ConfigRecord({"server-round": 4})})
    StateDir(root / "state", 1, "s").save(3, kept)
    Authority.create(root / "federation", ["example.org"], ["one", "two"])


def write_images(root: Path) -> None:
    """Write a tiny set of every form, each in a folder of its own."""
    rng = np.random.default_rng(0)

    def some(count: int, *shape: int) -> forms.Arrays:
        return rng.integers(256, size=(count, *shape), dtype=np.uint8), np.arange(count) % 10

    for name in ("svhn", "usps", "npz", "parquet"):
        (root / name).mkdir()
    forms.write_mnist(root / "mnist", some(60, 28, 28), some(20, 28, 28))
    plain = root / "mnist" / "train-images-idx3-ubyte"
    plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    forms.write_svhn(root / "svhn", some(60, 32, 32, 3), some(20, 32, 32, 3))
    forms.write_usps(root / "usps", some(60, 16, 16), some(20, 16, 16))
    forms.write_archive(root / "archive" / "SynthDigits", some(60, 32, 32, 3), some(20, 32, 32, 3), parts=3)
    forms.write_npz(root / "npz" / "own.npz", some(60, 28, 28), some(20, 28, 28))
    forms.write_cifar(root / "cifar", some(50, 32, 32, 3), some(20, 32, 32, 3))
    forms.write_folders(root / "folders", {"a": {"x": 6, "y": 6}, "b": {"x": 6, "y": 6}}, size=(8, 8))
    write_office(root / "office")
    cells = []
    for image in some(60, 28, 28)[0]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    writers = [f"w{number % 3}" for number in range(60)]
    table = pd.DataFrame({"image": cells, "character": np.arange(60), "writer_id": writers})
    table.to_parquet(root / "parquet" / "train.parquet")


def know_sums(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Let torchvision, which knows the published files by their sums, know these by theirs."""

    def sum_of(path: Path) -> str:
        return md5(path.read_bytes()).hexdigest()

    batches = root / "cifar" / "cifar-10-batches-py"
    for half in ("train_list", "test_list"):
        patch.setattr(CIFAR10, half, [[name, sum_of(batches / name)] for name, _ in getattr(CIFAR10, half)])
    patch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sum_of(batches / "batches.meta")})
    mats = {
        half: [url, name, sum_of(root / "svhn" / name)] for half, (url, name, _) in list(SVHN.split_list.items())[:2]
    }
    patch.setattr(SVHN, "split_list", {**SVHN.split_list, **mats})


def write_office(root: Path) -> None:
    """Folders of the four domains with FedBN's lists of their split."""
    names = [each[0] for each in office_caltech10.SET.classes]
    domains = office_caltech10.SET.domains
    forms.write_folders(root, {domain: dict.fromkeys(names, 2) for domain in domains}, size=(8, 8))
    for domain in domains:
        paths = np.array(sorted(str(path.relative_to(root.parent)) for path in (root / domain).glob("*/*")))
        texts = [Path(path).parts[-2] for path in paths]
        for half, rows in (("train", slice(None, None, 2)), ("test", slice(1, None, 2))):
            (root / f"{domain}_{half}.pkl").write_bytes(pickle.dumps((paths[rows], texts[rows])))
