"""What is exported is run by the programs that it is for, and has the logits of the model."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fedsim
from fedsim.core.errors import UserError
from tests.conftest import IMAGE_SHAPE, SMALL

METHODS = ["fedbn", "fedavg model=vit_tiny"]
BY_NIGHT = ["fedloge", "fedrod", "fedproto", "fedwon"]


@pytest.fixture(
    scope="module", params=[*METHODS, *(pytest.param(method, marks=pytest.mark.nightly) for method in BY_NIGHT)]
)
def run_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*SMALL, "rounds=1", "engine=inline", *f"strategy={request.param}".split()]
    return fedsim.simulate(*words, f"out_dir={tmp_path_factory.mktemp('runs') / 'run'}", progress=False).run_dir


@pytest.fixture(scope="module")
def fedbn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*SMALL, "rounds=1", "engine=inline", "strategy=fedbn"]
    return fedsim.simulate(*words, f"out_dir={tmp_path_factory.mktemp('fedbn') / 'run'}", progress=False).run_dir


def images(count: int) -> torch.Tensor:
    return torch.randn(count, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(count))


@pytest.mark.nightly
def test_torchs_program_has_the_logits_of_the_model(run_dir: Path, tmp_path: Path) -> None:
    trained = fedsim.load(run_dir)
    for client in (None, 2):
        program = torch.export.load(trained.export(tmp_path / "models" / f"{client}.pt2", client)).module()
        model = trained.model(client)
        for count in (1, 5):
            with torch.no_grad():
                torch.testing.assert_close(program(images(count)), model(images(count)), atol=1e-5, rtol=0)


@pytest.mark.nightly
def test_onnx_has_the_logits_of_the_model(run_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs pip install -e '.[export]'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install -e '.[export]'")
    trained = fedsim.load(run_dir)
    for client in (None, 2):
        path = trained.export(tmp_path / f"{client}.onnx", client)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        model = trained.model(client)
        for count in (1, 5):
            (found,) = session.run(["logits"], {"images": images(count).numpy()})
            with torch.no_grad():
                np.testing.assert_allclose(found, model(images(count)).numpy(), atol=1e-5, rtol=0)
        said = json.loads(session.get_modelmeta().custom_metadata_map["fedsim.json"])
        assert said == {"classes": list("0123456789"), "mean": [0.5], "std": [0.5]}


def test_a_further_predictor_can_be_exported(tmp_path: Path) -> None:
    words = [*SMALL, "rounds=1", "engine=inline", "strategy=fedrod"]
    trained = fedsim.load(fedsim.simulate(*words, f"out_dir={tmp_path / 'run'}", progress=False).run_dir)
    program = torch.export.load(trained.export(tmp_path / "generic.pt2", 1, predictor="generic")).module()
    with torch.no_grad():
        torch.testing.assert_close(program(images(3)), trained.model()(images(3)), atol=1e-5, rtol=0)


def test_a_file_in_the_home_folder_is_not_in_one_that_is_called_so(
    fedbn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    trained = fedsim.load(fedbn)
    assert trained.export("~/models/m.pt2") == tmp_path / "models" / "m.pt2"
    assert (tmp_path / "models" / "m.pt2").is_file()
    with pytest.raises(UserError, match=r"export=~nobody_here/m\.pt2 names a home folder that is not here"):
        trained.export("~nobody_here/m.pt2")


def test_another_ending_is_refused(fedbn: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"export=.*model\.h5 is not possible: choose a file that ends in \.onnx or \.pt2"
    ):
        fedsim.load(fedbn).export(tmp_path / "model.h5")


def test_a_missing_package_is_named(fedbn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as Python has it for what cannot be imported
    with pytest.raises(UserError, match=r"needs onnxscript.*: install it with pip install -e '\.\[export\]'"):
        fedsim.load(fedbn).export(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
