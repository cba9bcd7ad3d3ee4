"""``model.pretrained``: which files are read, what of them is taken, and what is refused."""

import os
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.models import CNNSmall, build_model
from fedsim.models.layer_map import as_written
from fedsim.models.pretrained import origin_of
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests import harms

MakeSettings = Callable[..., Settings]


def other(num_classes: int = 10) -> nn.Module:
    """A network whose weights and statistics are not those of any seed."""
    torch.manual_seed(0)
    model = CNNSmall(num_classes)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 1)
    return model


def built(settings: Settings) -> dict[str, torch.Tensor]:
    return build_model(settings, 10).state_dict()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(other().state_dict(), path)
    return path


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "before 1.6", "checkpoint", "parallel"])
def test_every_form_of_a_file_gives_its_weights(form: str, small_settings: MakeSettings, weights: Path) -> None:
    state = load_file(weights)
    path = weights.with_name("file")
    if form == "safetensors":
        save_file(state, path)
    elif form == "before 1.6":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "model": state}, path)
    elif form == "parallel":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    else:
        torch.save(state, path)
    model = built(small_settings(f"model.pretrained={path}"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.items())


def test_a_classifier_for_other_classes_keeps_its_initial_values_and_the_run_says_so(
    small_settings: MakeSettings, tmp_path: Path
) -> None:
    path = tmp_path / "of_seven.pth"
    torch.save(other(7).state_dict(), path)
    model, initial = built(small_settings(f"model.pretrained={path}")), built(small_settings())
    state = torch.load(path)
    heads = {"head.weight", "head.bias"}
    assert all(torch.equal(model[name], initial[name] if name in heads else state[name]) for name in model)
    line = str(prepare(small_settings(f"model.pretrained={path}")))
    assert "cnn_small with bn from of_seven.pth but for its classifier head, sgd" in line
    save_file({name: tensor for name, tensor in state.items() if name not in heads}, tmp_path / "headless")
    headless = built(small_settings(f"model.pretrained={tmp_path / 'headless'}"))
    assert all(torch.equal(tensor, model[name]) for name, tensor in headless.items())


def test_nothing_else_of_the_network_is_drawn_differently(small_settings: MakeSettings, weights: Path) -> None:
    words = ("attention=se", "head=cosine")
    model, initial = built(small_settings(f"model.pretrained={weights}", *words)), built(small_settings(*words))
    own = [name for name in model if name not in load_file(weights) or name.startswith("head.")]
    assert len(own) > 3
    changed = [name for name in model if not torch.equal(model[name], initial[name])]
    assert changed
    assert not {name for name in changed if name.startswith("head.")}


def test_a_norm_keeps_the_scales_of_the_file(small_settings: MakeSettings, weights: Path) -> None:
    model, state = built(small_settings(f"model.pretrained={weights}", "norm=gn")), load_file(weights)
    assert "features.1.running_mean" not in model
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.items())
    frozen = build_model(small_settings(f"model.pretrained={weights}", "norm=gn", "train_only=norm"), 10)
    assert torch.equal(frozen.state_dict()["features.1.weight"], state["features.1.weight"])  # not drawn anew
    assert next(name for name, each in frozen.named_parameters() if each.requires_grad) == "features.1.weight"


def test_another_run_of_the_same_norm_goes_on_where_it_ended(small_settings: MakeSettings, tmp_path: Path) -> None:
    words = ("engine=inline", "rounds=1", "norm=sws", "head=cosine")
    run(prepare(small_settings(*words)), tmp_path / "a", Reporter())
    path = tmp_path / "a" / "model.safetensors"
    state = load_file(path)
    prepared = prepare(small_settings(*words, f"model.pretrained={path}"))
    assert any(name.endswith("gain") for name in state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in prepared.model.state_dict().items())
    run(prepared, tmp_path / "b", Reporter())
    before, after = (pd.read_csv(tmp_path / name / "rounds.csv")["global_loss"] for name in ("a", "b"))
    assert after.iloc[0] == before.iloc[-1]


@pytest.mark.parametrize(
    "words",
    [
        ("head=cosine",),
        ("head=cosine", "head.learnable=true"),
        ("head=etf",),
        ("head=projected_etf",),
        ("head=stochastic", "strategy=fedsr"),
        ("head=cosine", "norm=gn"),
        ("head=etf", "attention=se"),
        ("reparam=weight_compander", "reparam.a=0.3", "reparam.b=0.1"),
        ("head=etf", "reparam=weight_compander"),
        ("train_only=norm_and_head", "head=cosine"),
    ],
    ids=" ".join,
)
def test_the_model_of_another_run_is_taken_whole(
    small_settings: MakeSettings, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Also if its classifier has the shape of the one as written, and no bias."""
    first = build_model(small_settings(*words, "seed=5"), 10)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(0.9)
    state = first.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    second = build_model(small_settings(*words, "seed=6", f"model.pretrained={tmp_path / 'model.safetensors'}"), 10)
    assert all(torch.equal(tensor, state[name]) for name, tensor in second.state_dict().items())
    assert origin_of(second) == "from model.safetensors"
    images = torch.rand(4, 3, 28, 28)
    assert torch.equal(first.eval()(images), second.eval()(images))


def test_what_may_be_of_either_network_is_refused(small_settings: MakeSettings, weights: Path) -> None:
    """A constant weight compander adds no names, and its trained parameters are not the weights."""
    words = ("reparam=weight_compander", "reparam.learnable=false", "reparam.a=5")
    sentence = r"^model\.pretrained=.* has the same names before and after norm=bn, .* by which numbers become others"
    with pytest.raises(UserError, match=sentence):
        built(small_settings(*words, f"model.pretrained={weights}"))
    save_file(other(7).state_dict(), weights)
    with pytest.raises(UserError, match=sentence):
        built(small_settings(*words, f"model.pretrained={weights}"))
    built(small_settings(*words[:1], *words[2:], f"model.pretrained={weights}"))


def test_personal_parts_of_every_client_start_from_it(
    small_settings: MakeSettings, weights: Path, tmp_path: Path
) -> None:
    words = ("engine=inline", "rounds=1", "strategy=fedbn", "fraction=0.2", "lr=1e-30", f"model.pretrained={weights}")
    run(prepare(small_settings(*words)), tmp_path / "run", Reporter())
    states = [load_file(path) for path in (tmp_path / "run" / "clients").glob("*.safetensors")]
    assert states
    scale = load_file(weights)["features.1.weight"]
    assert all(torch.equal(state["features.1.weight"], scale) for state in states)


def test_the_network_as_written_needs_no_file() -> None:
    as_written({"name": "cnn_small", "_target_": "fedsim.models.CNNSmall", "pretrained": "nowhere"}, 10, (3, 28, 28))


class Evil:
    """Would create a file if it were read without ``weights_only``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["zip", "before 1.6", "pickle"])
def test_no_code_of_a_file_is_executed(small_settings: MakeSettings, tmp_path: Path, form: str) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "executed"
    if form == "pickle":
        with path.open("wb") as file:
            pickle.dump({"head.weight": Evil(mark)}, file)
    else:
        torch.save({"head.weight": Evil(mark)}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=r"^model\.pretrained=.*evil\.pth ") as refused:
        built(small_settings(f"model.pretrained={path}"))
    assert not mark.exists()
    assert "weights_only" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_archive_of_gigabytes_is_not_inflated_and_a_pipe_not_opened(
    small_settings: MakeSettings, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    harms.bomb(path, random.Random(0))
    with pytest.raises(UserError, match=rf"^model\.pretrained={path} cannot be read \(its \d+ bytes hold more than"):
        built(small_settings(f"model.pretrained={path}"))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=rf"^model\.pretrained={path} cannot be read \(it is a pipe"):
        built(small_settings(f"model.pretrained={path}"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"cannot be read \(No such file or directory\): choose a run's model\.safetensors, or a torch file"),
        (b"", r"cannot be read \(.+\): choose"),
        (b"not a model", r"cannot be read \(.+\): choose"),
        (b"PK no archive", r"(cannot be read \(.+\)|is damaged, or .*): choose"),
        ({}, r"holds no weights by name: choose"),
        ([torch.zeros(2)], r"holds no weights by name: choose"),
        ({"epoch": 3}, r"holds no weights by name: choose"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(
    small_settings: MakeSettings, tmp_path: Path, content: object, sentence: str
) -> None:
    path = tmp_path / "file"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=rf"^model\.pretrained={path} {sentence}") as refused:
        built(small_settings(f"model.pretrained={path}"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            {"features.0.weight": torch.zeros(2, 2)},
            r"its features\.0\.weight has the shape \(2, 2\), and this",
        ),
        ({"more": torch.zeros(2)}, r"it has more, which this network has not"),
        ({"features.1.running_mean": None}, r"it has no features\.1\.running_mean"),
    ],
)
def test_another_network_is_refused_with_what_differs(
    small_settings: MakeSettings, weights: Path, change: dict[str, torch.Tensor | None], difference: str
) -> None:
    state = {**load_file(weights), **change}
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, weights)
    sentence = rf"^model\.pretrained=.* holds another network than this run's \({difference}.*\): choose the same model"
    with pytest.raises(UserError, match=sentence):
        built(small_settings(f"model.pretrained={weights}"))


def test_counters_may_be_missing_as_in_old_files(small_settings: MakeSettings, weights: Path) -> None:
    state = {name: each for name, each in load_file(weights).items() if not name.endswith("num_batches_tracked")}
    save_file(state, weights)
    model = built(small_settings(f"model.pretrained={weights}"))
    assert model["features.1.num_batches_tracked"] == 0
    assert torch.equal(model["features.1.running_mean"], state["features.1.running_mean"])


def test_a_number_is_no_path(small_settings: MakeSettings) -> None:
    settings = small_settings()
    with pytest.raises(UserError, match=r"^model\.pretrained=7 is not possible: choose a text or null\.$"):
        built(replace(settings, model={**settings.model, "pretrained": 7}))
