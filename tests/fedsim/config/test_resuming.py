"""A run that goes on keeps its settings, but may be given more rounds."""

from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

import fedsim
from fedsim.app.sweep import is_finished
from fedsim.config.composition import CONFIG_DIR, compose, load
from fedsim.config.resuming import kept_freeze, kept_settings, with_more_rounds
from fedsim.config.settings import settings_of
from fedsim.core.errors import UserError
from fedsim.output.progress import Reporter
from fedsim.output.recorder import Recorder
from fedsim.output.results import find_runs, read_summary
from fedsim.report.labels import group_by_settings
from fedsim.server import checkpoints
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import SMALL

INLINE = (*SMALL, "engine=inline", "rounds=2")


def test_more_rounds_end_as_if_they_had_been_asked_for_at_once(tmp_path: Path) -> None:
    """A run of one more round, bit for bit."""
    fedsim.simulate(*INLINE, "strategy=scaffold", f"out_dir={tmp_path / 'longer'}", progress=False)
    fedsim.simulate(f"resume={tmp_path / 'longer'}", "rounds=4", progress=False)
    fedsim.simulate(*INLINE, "strategy=scaffold", "rounds=4", f"out_dir={tmp_path / 'at-once'}", progress=False)
    longer, at_once = tmp_path / "longer", tmp_path / "at-once"
    for name in ("clients.csv", "classes.csv", "model.safetensors", "config.yaml"):
        assert (longer / name).read_bytes() == (at_once / name).read_bytes()
    rows = [pd.read_csv(each / "rounds.csv").drop(columns="seconds") for each in (longer, at_once)]
    pd.testing.assert_frame_equal(*rows)


def begun(*words: str) -> dict[str, object]:
    return compose(["rounds=30", *words])


@pytest.mark.parametrize(
    ("words", "rounds", "sentence"),
    [
        ((), 29, r"^rounds=29 is not possible with resume=: the run was begun for 30 rounds, and can only be given mo"),
        (("lr_schedule=cosine",), 31, r"^rounds=31 .*lr_schedule=cosine, whose learning rate has fallen to 0 behind r"),
    ],
)
def test_rounds_that_a_run_cannot_have_are_refused(words: tuple[str, ...], rounds: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        with_more_rounds(begun(*words), rounds)
    assert with_more_rounds(begun(*words), 30) == begun(*words)  # what is advised


def test_more_rounds_are_refused_where_an_option_of_the_method_depends_on_them(tmp_path: Path) -> None:
    words = (*INLINE, "strategy=fraug", "strategy.gamma=1")
    fedsim.simulate(*words, f"out_dir={tmp_path / 'run'}", progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    sentence = (
        r"^rounds=3 is not possible .* strategy\.schedule=exponential, which depends on the number of rounds, 2: "
    )
    with pytest.raises(UserError, match=sentence):
        fedsim.simulate(f"resume={tmp_path / 'run'}", "rounds=3", progress=False)
    assert {path: path.read_bytes() for path in before} == before
    fedsim.simulate(*words, "strategy.schedule=half", f"out_dir={tmp_path / 'half'}", progress=False)
    fedsim.simulate(f"resume={tmp_path / 'half'}", "rounds=3", progress=False)


def test_a_freeze_stays_where_it_is(tmp_path: Path) -> None:
    longer = with_more_rounds(begun("norm.policy=fixbn"), 100)
    assert (longer["rounds"], longer["norm"]["freeze_after"]) == (100, 15)
    assert with_more_rounds(longer, 200)["norm"]["freeze_after"] == 15
    assert with_more_rounds(begun(), 100)["norm"]["freeze_after"] is None
    given = with_more_rounds(begun("norm.policy=fixbn", "norm.freeze_after=3"), 100)
    assert given["norm"]["freeze_after"] == 3


def test_a_run_that_is_given_more_rounds_is_unfinished_from_then_on(tmp_path: Path) -> None:
    """Also before the first of them is evaluated."""
    fedsim.simulate(*INLINE, f"out_dir={tmp_path}", progress=False)
    assert is_finished(tmp_path)
    before = read_summary(tmp_path / "summary.json")
    Recorder(tmp_path, settings_of({"resume": str(tmp_path), "rounds": 2}, ["rounds=2"])).go_back_to(2)
    assert is_finished(tmp_path)
    Recorder(tmp_path, settings_of({"resume": str(tmp_path), "rounds": 5}, ["rounds=5"])).go_back_to(2)
    assert not is_finished(tmp_path)
    assert read_summary(tmp_path / "summary.json") == {**before, "rounds": 5}
    assert list(group_by_settings(find_runs([tmp_path]))) == ["fedavg (stopped in round 2 of 5)"]


class Said(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_freeze_that_stays_is_told_and_written(tmp_path: Path) -> None:
    fedsim.simulate(*INLINE, "norm.policy=fixbn", f"out_dir={tmp_path}", progress=False)
    longer, reporter = settings_of({"resume": str(tmp_path), "rounds": 3}, ["rounds=3"]), Said()
    run(prepare(longer), tmp_path, reporter)
    assert "WARNING: norm.freeze_after=1 stays: half of the rounds that this run was begun for" in reporter.lines
    assert load(tmp_path)["norm"]["freeze_after"] == 1
    again = settings_of({"resume": str(tmp_path)})
    assert (again.rounds, kept_freeze(tmp_path, again.norm)) == (3, "")


@pytest.mark.parametrize("word", ["lr=0.1", "seed=1", "engine.workers=3", "rounds_=3", "+rounds=3", "device=cpu"])
def test_every_other_change_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"cannot be given with resume=: a resumed run keeps its own settings, and onl"):
        settings_of({"resume": "run", "rounds": 3}, ["resume=run", word])


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("lr", 0.05, 0.1),
        ("seed", 0, 1),
        ("strategy.mu", 0.01, 1.0),
        ("norm.policy", None, "fedbn"),
        ("norm.freeze_after", None, 1),
    ],
)
def test_a_setting_changed_in_the_file_of_the_run_is_refused(
    tmp_path: Path, key: str, before: object, after: object
) -> None:
    fedsim.simulate(*INLINE, "strategy=fedprox", f"out_dir={tmp_path}", progress=False)
    file = tmp_path / "config.yaml"
    config = OmegaConf.load(file)
    assert OmegaConf.select(config, key) == before
    OmegaConf.update(config, key, after)
    OmegaConf.save(config, file)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    was = "null" if before is None else before
    sentence = rf"^{file} has {key}={after}, and its checkpoint was made with {key}={was}: put back the file that the r"
    with pytest.raises(UserError, match=sentence):
        fedsim.simulate(f"resume={tmp_path}", "rounds=3", progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    OmegaConf.update(config, key, before)
    OmegaConf.save(config, file)
    fedsim.simulate(f"resume={tmp_path}", "rounds=3", progress=False)  # what is advised


@pytest.mark.parametrize(
    ("word", "key", "value"), [("norm=none", "norm.alpha", 0.2), ("norm=bcn", "norm.moving_speed", 0.01)]
)
def test_an_older_run_goes_on_with_a_setting_that_had_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, key: str, value: float
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with monkeypatch.context() as before:
        before.setattr(checkpoints, "kept_settings", lambda config: {**kept_settings(config), key: value})
        fedsim.simulate(*INLINE, word, f"out_dir={old}", progress=False)
    config = OmegaConf.load(old / "config.yaml")
    OmegaConf.update(config, key, value)
    OmegaConf.save(config, old / "config.yaml")
    fedsim.simulate(*INLINE, word, f"out_dir={new}", progress=False)
    assert load(old) == load(new)
    assert len(group_by_settings(find_runs([old, new]))) == 1
    for folder in (old, new):
        fedsim.simulate(f"resume={folder}", "rounds=3", progress=False)
    assert (old / "model.safetensors").read_bytes() == (new / "model.safetensors").read_bytes()


def test_a_refused_run_is_described_as_before(tmp_path: Path) -> None:
    """Also where its data are not known, so that other data are refused by the checkpoint alone."""
    fedsim.simulate(*INLINE, "split.num_clients=6", "split=iid", f"out_dir={tmp_path}", progress=False)
    (tmp_path / "provenance.json").unlink()
    config = OmegaConf.load(tmp_path / "config.yaml")
    OmegaConf.update(config, "split.num_clients", 5)
    OmegaConf.save(config, tmp_path / "config.yaml")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        UserError, match=r"has split.num_clients=5, and its checkpoint was made with split.num_clients=6"
    ):
        fedsim.simulate(f"resume={tmp_path}", "rounds=3", progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    OmegaConf.update(config, "split.num_clients", 6)
    OmegaConf.save(config, tmp_path / "config.yaml")
    fedsim.simulate(f"resume={tmp_path}", "rounds=3", progress=False)
    assert (tmp_path / "provenance.json").is_file()


def test_where_a_run_is_computed_may_be_changed_in_its_file(tmp_path: Path) -> None:
    fedsim.simulate(*INLINE, f"out_dir={tmp_path}", progress=False)
    file = tmp_path / "config.yaml"
    config = OmegaConf.load(file)
    engine = OmegaConf.load(CONFIG_DIR / "engine" / "process.yaml")
    for key, value in {"engine": engine, "pictures": True, "checkpoint_keep": 1}.items():
        assert OmegaConf.select(config, key) != value
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, file)
    fedsim.simulate(f"resume={tmp_path}", "rounds=3", progress=False)
    assert read_summary(tmp_path / "summary.json")["final"]["round"] == 3


def test_rounds_that_are_no_number_are_refused_as_everywhere(tmp_path: Path) -> None:
    fedsim.simulate(*INLINE, "rounds=1", f"out_dir={tmp_path}", progress=False)
    with pytest.raises(UserError, match=r"rounds=many is not possible|rounds='many'"):
        settings_of({"resume": str(tmp_path), "rounds": "many"}, [f"resume={tmp_path}", "rounds=many"])
