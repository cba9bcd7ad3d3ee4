"""Published rows of experiments: their form, and that each of them can be run."""

from collections.abc import Mapping

import pytest

from fedsim.config.composition import CONFIG_DIR, compose
from fedsim.config.published import Accuracy, Published, is_published
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError

EXPERIMENTS = sorted(path.stem for path in (CONFIG_DIR / "experiment").glob("*.yaml"))
ENTRY = {"table": "Table 1", "experiment": "mine", "rows": [{"run": "strategy=fedbn lr=0.1", "mean": "88.4 ± 0.1"}]}


def test_a_row_holds_its_words_and_its_accuracies() -> None:
    (row,) = Published.read({**ENTRY, "unknown": ["lr"], "round": "best"}).rows
    assert row.words == {"strategy": "fedbn", "lr": "0.1"}
    assert row.run == "strategy=fedbn lr=0.1"
    assert row.accuracies == {"mean": Accuracy(88.4, 0.1)}
    assert str(row.accuracies["mean"]) == "88.4 ± 0.1"
    assert str(Accuracy.read(85.23)) == "85.2"
    assert Published.read(ENTRY).round == "last"


def test_a_row_may_leave_a_setting_out() -> None:
    (row,) = Published.read({**ENTRY, "rows": [{"run": "split=iid ~split.alpha", "mean": 75.0}]}).rows
    assert row.words == {"split": "iid", "split.alpha": None}
    assert row.run == "split=iid ~split.alpha"


@pytest.mark.parametrize(
    "wrong",
    [
        "Table 1",
        {},
        {**ENTRY, "metric": "mean"},
        {**ENTRY, "round": "first"},
        {**ENTRY, "rows": [{"mean": 88.4}]},
        {**ENTRY, "rows": [{"run": "fedbn", "mean": 88.4}]},
        {**ENTRY, "rows": [{"run": "strategy=fedbn"}]},
        {**ENTRY, "rows": [{"run": "~split.alpha=0.5", "mean": 88.4}]},
        {**ENTRY, "rows": [{"run": "strategy=fedbn", "mean": "88,4"}]},
        {**ENTRY, "rows": [{"run": "strategy=fedbn", "mean": 884}]},
    ],
)
def test_another_form_is_refused_before_the_run(wrong: object) -> None:
    assert is_published(None)
    assert is_published(ENTRY)
    with pytest.raises(UserError, match=r"^published=.* is not possible: choose null, or a mapping with table, "):
        Settings.from_config({**compose([]), "published": wrong})


@pytest.mark.nightly
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_published_row_of_an_experiment_is_a_run_of_it(name: str) -> None:
    entry: Mapping[str, object] | None = compose([f"experiment={name}"])["published"]
    if entry is None:
        return
    published = Published.read(entry)
    assert published.experiment in EXPERIMENTS
    settings = {}
    for row in published.rows:
        config = compose([f"experiment={name}", *row.run.split()])
        settings[str(Settings.from_config(config))] = row.run
        for key, value in row.words.items():
            group, _, option = key.partition(".")
            assert group in config
            assert not option or (option in config[group]) == (value is not None)
    assert len(settings) == len(published.rows)  # no two rows are the same run


@pytest.mark.nightly
def test_the_mean_that_a_paper_prints_is_that_of_its_domains() -> None:
    """A wrong digit would show. FedWon's paper itself prints two means that are not those of their columns."""
    deviating = []
    for name in EXPERIMENTS:
        entry = compose([f"experiment={name}"])["published"]
        for row in Published.read(entry).rows if entry else ():
            domains = [each.mean for head, each in row.accuracies.items() if not head.startswith(("mean", "global"))]
            if domains and "mean" in row.accuracies:
                printed = row.accuracies["mean"].mean
                if abs(sum(domains) / len(domains) - printed) > 0.1:
                    deviating.append((name, row.words["strategy"], printed))
    assert deviating == [("fedwon_digits5", "local", 83.1), ("fedwon_office_caltech10", "fedwon", 75.6)]
