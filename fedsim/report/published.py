"""What a paper has published beside what was measured: *published*, *ours*, *difference*, and in what the runs deviate.

The runs bring the published table with them (``fedsim.config.published``); a row of it belongs to the runs in which
every word of the row holds.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedsim.config.composition import NOT_CHOSEN, compose, load
from fedsim.config.kinds import OF_THE_PLACE
from fedsim.config.overrides import parse
from fedsim.config.published import Accuracy, Published, Row
from fedsim.core.errors import UserError
from fedsim.core.files import write_atomically
from fedsim.core.names import MEAN
from fedsim.core.nested import flattened as by_dotted_name
from fedsim.output.results import Result
from fedsim.output.terminal import print_line, print_whole
from fedsim.report.heads import accuracies_by_head, is_total
from fedsim.report.labels import comparable, flattened, written
from fedsim.report.markdown import plain

LINES = ("published", "ours", "difference")
DOMAINS = "dataset.domains"
MEAN_OF_OTHERS = "mean of other domains"
"""The head of a published mean over other domains than ours, from which ours has no difference."""
COLUMNS = ("table", "label", "head", "published", "published_std", "ours", "std", "runs", "difference")
NO_DEVIATION = (*OF_THE_PLACE, "shots")
"""Settings that say where images lie and what is written: no paper's numbers depend on them."""


def write_published(groups: Mapping[str, list[Result]], out: Path) -> list[str]:
    """Print the published numbers beside those of the runs, write both into ``out``, and return the files' names.

    Without published rows for any of the runs nothing is printed or written.

    Raises:
        FileError: If a file cannot be written.
    """
    table = published_table(groups)
    if table.empty:
        return []
    told = deviations(groups)
    for name, rows in table.groupby("table", sort=False):
        print_whole(_render(str(name), wide(rows)))
    for line in told:
        print_line(line)
    write_atomically(out / "published.csv", lambda path: table.to_csv(path, index=False, encoding="utf-8"))
    page = _markdown(table, told)
    write_atomically(out / "published.md", lambda path: path.write_text(page, encoding="utf-8"))
    return ["published.csv", "published.md"]


def published_table(groups: Mapping[str, list[Result]]) -> pd.DataFrame:
    """Return a row for each label and head that both have: published, ours in percent, and ours minus published."""
    rows = []
    for label, runs in groups.items():
        found = row_of(runs[0].run_dir)
        if found is None:
            continue
        published, row = found
        rounds = [run.summary["best" if published.round == "best" else "final"] for run in runs]
        ours = pd.DataFrame([accuracies_by_head(each) for each in rounds]) * 100
        other = _other_domains(load(runs[0].run_dir), published, row)
        for head, accuracy, values in _beside(row.accuracies, ours, other_domains=other):
            of_paper, of_ours = (accuracy.mean, accuracy.deviation), (values.mean(), values.std(), values.count())
            difference = float("nan") if head == MEAN_OF_OTHERS else of_ours[0] - accuracy.mean
            rows.append((published.table, label, head, *of_paper, *of_ours, difference))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _beside(
    accuracies: Mapping[str, Accuracy], ours: pd.DataFrame, *, other_domains: bool
) -> Iterator[tuple[str, Accuracy, pd.Series]]:
    """Yield each head that both have, with the published accuracy and ours of each run.

    Of other domains than the paper's no total is comparable: in its place is the mean over the domains that both have.
    """
    of_domains = [head for head in accuracies if not is_total(head)]
    shared = [head for head in of_domains if head in ours]
    for head in shared:
        yield head, accuracies[head], ours[head]
    if other_domains or shared != of_domains:
        if len(shared) > 1:
            mean = Accuracy(sum(accuracies[head].mean for head in shared) / len(shared))
            yield f"mean of {len(shared)} shared", mean, ours[shared].mean(axis=1)
        elif MEAN in accuracies and MEAN in ours:
            yield MEAN_OF_OTHERS, accuracies[MEAN], ours[MEAN]
        return
    for head, accuracy in accuracies.items():
        if is_total(head) and head in ours:
            yield head, accuracy, ours[head]


def _other_domains(config: Mapping[str, Any], published: Published, row: Row) -> bool:
    """Return whether a run was made on other domains than its experiment's."""
    try:
        wanted = compose([f"experiment={published.experiment}", *row.run.split()])
    except UserError:  # of another version
        return False
    return bool(flattened(config).get(DOMAINS) != flattened(wanted).get(DOMAINS))


def row_of(run_dir: Path) -> tuple[Published, Row] | None:
    """Return the published row of a run: of those whose words all hold the one with the most words."""
    config = load(run_dir)
    if not config.get("published"):
        return None
    try:
        published = Published.read(config["published"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{run_dir / 'config.yaml'} is damaged at published: {error}.") from error
    rows = [row for row in published.rows if all(_holds(config, key, value) for key, value in row.words.items())]
    return (published, max(rows, key=lambda row: len(row.words))) if rows else None


def _holds(config: Mapping[str, Any], key: str, value: str | None) -> bool:
    """Return whether a run with these settings was made with the word ``key=value``, or ``~key`` without a value."""
    settings = by_dotted_name(config)
    if value is None:
        return key not in settings
    if isinstance(config.get(key), dict):  # the choice of a group
        name = flattened(config).get(f"{key}.name")
        return bool(config[key].get("name") == value or name in (value, f"[{value}]"))  # split=iid is split=[iid]
    return key in settings and comparable(settings[key]) == comparable(parse(f"{key}={value}").value())


def deviations(groups: Mapping[str, list[Result]]) -> list[str]:
    """Return lines that name the settings in which runs deviate from their experiment, and those no paper gives."""
    labels_by_line: dict[str, list[str]] = {}
    unknown: dict[str, None] = {}
    for label, runs in groups.items():
        found = row_of(runs[0].run_dir)
        if found is None:
            continue
        published, row = found
        if published.unknown:
            unknown[f"{published.table} does not say: {', '.join(published.unknown)}"] = None
        differing = _differing(load(runs[0].run_dir), published, row)
        if differing:
            line = f"other than experiment={published.experiment}: {', '.join(differing)}"
            labels_by_line.setdefault(line, []).append(label)
    lines = [
        line if len(labels) == len(groups) else f"{'; '.join(labels)}: {line}"
        for line, labels in labels_by_line.items()
    ]
    return [*lines, *unknown]


def _differing(config: Mapping[str, Any], published: Published, row: Row) -> list[str]:
    """Return the settings in which a run deviates from the row's, with the row's in brackets."""
    try:
        wanted = compose([f"experiment={published.experiment}", *row.run.split()])
    except UserError as error:
        return [f"it cannot be composed any more ({error})"]
    mine, theirs = flattened(config), flattened(wanted)
    no_matter = () if published.round == "best" else ("evaluate_every",)  # the last round is evaluated in any case
    return [
        f"{key.removesuffix('.name')}={written(mine.get(key))} ({written(theirs.get(key))})"
        for key in sorted({*mine, *theirs})
        if comparable(mine.get(key)) != comparable(theirs.get(key))
        and key not in (*published.unknown, *NO_DEVIATION, *no_matter)
        and not key.endswith(NOT_CHOSEN)
        and not _is_younger(key, mine, theirs)
    ]


def _is_younger(key: str, run: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether a run has no such option though it has made the same choice of its group: there was none then."""
    chosen = f"{key.partition('.')[0]}.name"
    return key not in run and run.get(chosen) == wanted.get(chosen)


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of one published table as texts: three lines for each label, a column for each head."""
    heads = sorted(dict.fromkeys(table["head"]), key=lambda head: is_total(head) or head.startswith(f"{MEAN} of "))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for cell in table.to_dict("records"):
        texts = (
            _with_deviation(cell["published"], cell["published_std"]),
            _with_deviation(cell["ours"], cell["std"]),
            "" if pd.isna(cell["difference"]) else f"{round(cell['difference'], 1) + 0.0:+.1f}",
        )
        for line, text in zip(LINES, texts, strict=True):
            name = f"{line} ({cell['runs']} run{'s' if cell['runs'] > 1 else ''})" if line == "ours" else line
            lines.setdefault((cell["label"], name), {})[cell["head"]] = text
    frame = pd.DataFrame([[texts.get(head, "") for head in heads] for texts in lines.values()], columns=heads)
    return frame.set_axis(pd.MultiIndex.from_tuples(lines), axis="index")


def _with_deviation(mean: float, deviation: float | None) -> str:
    return f"{mean:.1f}" if deviation is None or pd.isna(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def _render(name: str, cells: pd.DataFrame) -> Table:
    shown = Table(title=f"published beside ours: {name} (%)", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    shown.add_column("")
    for head in cells.columns:
        shown.add_column(head, justify="right")
    for (label, line), *texts in cells.itertuples():
        first = line == LINES[0]
        if first:
            shown.add_section()
        shown.add_row(label if first else "", line, *texts)
    return shown


def _markdown(table: pd.DataFrame, told: list[str]) -> str:
    """Return a page with a table for each published one, and the deviations below."""
    parts = []
    for name, rows in table.groupby("table", sort=False):
        cells = wide(rows)
        lines = [f"**{name}** (%)", "", "| | | " + " | ".join(map(plain, cells.columns)) + " |"]
        lines.append("|---|---|" + "---:|" * len(cells.columns))
        for (label, line), *texts in cells.itertuples():
            shown = f"`{label}`" if line == LINES[0] else ""
            lines.append(f"| {shown} | {line} | " + " | ".join(texts) + " |")
        parts.append("\n".join(lines))
    notes = "\n".join(f"* {plain(line)}" for line in told)
    return "\n\n".join([*parts, *([notes] if notes else [])]) + "\n"
