"""The examples of ``docs/adding.md``: put where the page says, they compute what they say, and run."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from datasets.examples import Examples
from datasets.source import Part
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining
from tests.conftest import ROOT
from tests.documents import run

PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"([^\n]+(?:\n[^\n]+)*)\n\n```(python|yaml|text)\n(.*?)```", re.DOTALL)
"""A paragraph and the file, or as text the line of a file, that it announces."""
IGNORED = shutil.ignore_patterns(
    ".git", "outputs", "multirun", "site", "__pycache__", ".*_cache", "*.egg-info", "results", "tests", "benchmarks"
)


def files() -> dict[str, str]:
    """The files that the page adds, whole."""
    found = {}
    for paragraph, language, text in BLOCK.findall(PAGE):
        if language != "text":
            (path,) = re.findall(r"`([\w/]+\.(?:py|yaml))`", paragraph)
            found[path] = text
    return found


def lines() -> dict[str, str]:
    """The files that it adds a line to, with the line."""
    return {
        re.findall(r"\[([\w/]+\.py)\]\(", paragraph)[0]: text
        for paragraph, language, text in BLOCK.findall(PAGE)
        if language == "text"
    }


def module(path: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(files()[path], path, "exec"), names)
    return names


def test_the_page_has_an_example_of_each() -> None:
    assert list(files()) == [
        *("clients/fedlc.py", "configs/strategy/fedlc.yaml", "fedsim/norms/centred.py", "configs/norm/centred.yaml"),
        *("datasets/optical.py", "configs/dataset/optical.yaml", "fedsim/metrics/top_two.py"),
    ]
    assert not [path for path in files() if (ROOT / path).exists()]
    method = [text for path, text in files().items() if "fedlc" in path]
    assert sum(text.count("\n") for text in method) < 40


def test_the_method_trains_on_the_published_loss() -> None:
    """FedLC: minus the log of the softmax of z_c - tau n_c^(-1/4), here with 6, 2 and no images of three classes."""
    torch.manual_seed(0)
    data = Examples(torch.randint(0, 256, (8, 1, 2, 2), dtype=torch.uint8), torch.tensor([0, 0, 1, 0, 0, 0, 1, 0]))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    logits = model(data.images / 127.5 - 1).detach().double().numpy()
    calibrated = np.exp(logits - 0.7 * np.array([6, 2, 1]) ** -0.25)
    expected = -np.log(calibrated[np.arange(8), data.labels] / calibrated.sum(1)).mean()
    training = LocalTraining(local_epochs=1, batch_size=8, lr=0.1, momentum=0.0)
    half = module("clients/fedlc.py")["FedLC"](training, tau=0.7)
    context = TrainingContext(data=data, generator=torch.Generator().manual_seed(0), round=1)
    assert half.train(model, context)["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_norm_takes_away_the_mean_and_nothing_else() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    norm = module("fedsim/norms/centred.py")["use_centred"](model)[1]
    features = 3 + 2 * torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        norm.bias[1] = 0.5
        centred = norm(features)
    expected = features.numpy() - features.numpy().mean((2, 3), keepdims=True)
    expected[:, 1] += 0.5
    np.testing.assert_allclose(centred.numpy(), expected, atol=1e-6)


def test_the_data_set_is_scikit_learns() -> None:
    source = module("datasets/optical.py")["load"](every=5)
    digits = load_digits()
    test = source.indices(0, Part.TEST)
    np.testing.assert_array_equal(test, np.arange(0, 1797, 5))
    np.testing.assert_array_equal(source.labels, digits.target)
    for channel in range(3):
        np.testing.assert_allclose(source.images[:, channel] * (16 / 255), digits.images, atol=0.04)


def test_the_metric_counts_the_two_largest_logits() -> None:
    metric = module("fedsim/metrics/top_two.py")["TopTwo"]()
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.1, 0.2]])
    sums = metric.count(logits, torch.tensor([0, 1, 2, 1])).tolist()
    assert sums == [3.0]
    assert metric.value(sums, 4) == 0.75
    with pytest.raises(ValueError, match="more images"):
        metric.check([5.0], 4)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the files of the page, and its lines with their imports; nothing else is touched."""
    folder = tmp_path_factory.mktemp("adding") / "checkout"
    shutil.copytree(ROOT, folder, ignore=IGNORED)
    for path, text in files().items():
        (folder / path).write_text(text, encoding="utf-8")
    imports = {
        "fedsim/norms/registry.py": "from fedsim.norms.centred import Centred, use_centred\n",
        "fedsim/metrics/registry.py": "from fedsim.metrics.top_two import TopTwo\n",
    }
    for path, line in lines().items():
        before = (folder / path).read_text(encoding="utf-8")
        after = re.sub(r"^(TABLE = \(|FURTHER_METRICS.* = \{)\n", rf"\g<0>{line}", before, count=1, flags=re.MULTILINE)
        assert after != before
        (folder / path).write_text(re.sub(r"^from fedsim", f"{imports[path]}from fedsim", after, count=1, flags=re.M))
    return folder


@pytest.mark.nightly
@pytest.mark.slow
def test_they_run_together(checkout: Path, tmp_path: Path) -> None:
    def rounds(tau: float) -> pd.DataFrame:
        words = ["strategy=fedlc", "norm=centred", "dataset=optical", "metrics=[top_two]", f"strategy.tau={tau}"]
        skewed = ["split=dirichlet", "split.alpha=0.1", "split.num_clients=4"]  # tau changes nothing where none is rare
        small = ["rounds=1", "lr=0.2", "engine=inline", "pictures=false", f"out_dir={tmp_path / str(tau)}"]
        run([sys.executable, "run.py", *words, *skewed, *small], checkout)
        return pd.read_csv(tmp_path / str(tau) / "rounds.csv")

    plain, calibrated = rounds(0.0), rounds(10.0)
    assert plain["global_loss"][1] != pytest.approx(calibrated["global_loss"][1], rel=1e-3)
    assert plain["global_accuracy"][1] < plain["global_top_two"][1] <= 1
