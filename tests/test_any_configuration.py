"""Any words: a run of a round, or one sentence before anything starts; never a traceback, never half a directory."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fedsim.config.composition import compose
from fedsim.config.reference import File, choices
from fedsim.config.settings import settings_of
from fedsim.core.errors import FedsimError, UserError
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import ROOT

TINY = (
    *("rounds=1", "dataset.train_per_domain=24", "dataset.test_per_domain=6", "split.leave_out=[texture,street,font]"),
    *("batch_size=8", "engine=inline", "device=cpu", "pictures=false"),
)
GROUPS = (
    *("strategy", "norm", "model", "split", "aggregation", "privacy", "tta", "head", "attention", "reparam", "faults"),
)
VALUES = (
    *("0", "1", "2", "3", "-1", "0.5", "0.99", "1.5", "-0.25", "1e-9", "1e30", ".nan", ".inf", "1_000", "01", "'1'"),
    *("null", "true", "false", "abc", "a.b", "''", "'null'", "'é 中 \U0001f40c'", "../..", "/dev/null"),
    *("[]", "[1,2]", "[a,b]", "[[1]]", "{}", "{a:1}", "{a:{b:[1]}}"),
    *("mean", "local", "uniform", "bn", "[domain,longtail]", "[mnist]"),
)
"""Values of all types, wrong for nearly every setting and right for some."""
MODELS = ("cnn_small", "cnn6", "resnet20", "vit_tiny", "torchvision/shufflenet_v2_x0_5", "timm/mobilenetv3_small_050")
OURSELVES = {"out_dir", "resume", "data_dir", "download", "rounds", "device", "dataset", "engine", "experiment"}


def names_of(group: str) -> list[str]:
    if group == "model":
        return [*MODELS]
    return [choice for choice in choices(group) if "NAME" not in choice]


def options_of(group: str, choice: str) -> list[str]:
    """The keys of a choice's own options."""
    path = choices(group).get(choice)
    if path is None:  # of a library
        return []
    file = File.read(path)
    return [entry.key if file.is_global else f"{group}.{entry.key}" for entry in file.entries]


def top_level() -> list[str]:
    return [entry.key for entry in File.read(ROOT / "configs" / "config.yaml").entries]


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    """A choice of some groups, and values of some settings of these choices, or of a run."""
    chosen = {group: draw(st.sampled_from(names_of(group))) for group in GROUPS if draw(st.booleans())}
    keys = [*top_level(), *(key for group, choice in chosen.items() for key in options_of(group, choice))]
    keys = [key for key in keys if key.split(".")[0] not in OURSELVES]
    changed = draw(st.lists(st.tuples(st.sampled_from(keys), st.sampled_from(VALUES)), max_size=3))
    return [*(f"{group}={choice}" for group, choice in chosen.items()), *(f"{key}={value}" for key, value in changed)]


def one_sentence(error: Exception) -> bool:
    return "\n" not in str(error) and str(error)[-1:] in (".", ")")


def check(drawn: Sequence[str]) -> str:
    """Run these words in a folder of their own; return how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        everything = [*TINY, f"out_dir={run_dir}", *drawn]
        refused = None
        try:
            prepared = prepare(settings_of(compose(everything), everything))
        except UserError as error:
            refused = error
        if refused is not None:
            assert one_sentence(refused), refused
            assert os.listdir(folder) == []
            return "refused"
        try:
            result = run(prepared, run_dir, Reporter())
        except UserError as error:
            raise AssertionError(f"it was refused after it had begun: {error}") from error
        except FedsimError:  # such as a loss that is not finite
            return "failed"
        assert result.summary["final"]["round"] == 1
        return "run"


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)
@given(words())
def test_some_words_are_run_or_refused(drawn: list[str]) -> None:
    check(drawn)


@pytest.mark.nightly
@settings(max_examples=300, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck])
@given(words())
def test_any_words_are_run_or_refused(drawn: list[str]) -> None:
    check(drawn)
