"""Tables and pictures of one run or many: ``python -m fedsim.report multirun/2026-11-23/21-04-11``.

Runs that differ only in their seed are one row, *mean ± standard deviation* (sample formula) over the seeds.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from datasets.shots import SHOTS
from fedsim.config.composition import load
from fedsim.config.paths import expanded
from fedsim.core.errors import FedsimError
from fedsim.core.files import reading, write_atomically, writing
from fedsim.core.names import ALL, GLOBAL, MEAN, left_out, title
from fedsim.core.names import VALIDATION as VALIDATED
from fedsim.methods.interfaces import PLAIN
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.metrics.round_metrics import (
    CLIENT_MEAN,
    GLOBAL_ACCURACY,
    VALIDATION,
    client_mean_of,
    global_of,
    predictors_in,
)
from fedsim.metrics.scoring import joined
from fedsim.norms.factory import grouping
from fedsim.norms.groups import GROUP_OPTIONS
from fedsim.output.results import Result, find_runs
from fedsim.output.terminal import never_fail_to_print, print_whole
from fedsim.report.diagnostics_pictures import plot_diagnostics_comparison
from fedsim.report.plots import plot_comparison_by_domain, plot_comparison_over_rounds
from fedsim.report.significance import sentences

NOT_COMPARED = (
    *("seed", "out_dir", "resume", "device", "engine", "verbose", "checkpoint_every", "join_timeout"),
    *("diagnostics", "diagnostics_every", "diagnostics_images", "metrics"),
)
"""Settings in which the runs of one row may differ: they do not change what is measured."""
SPLIT_STEPS = "split.steps"
CLIENTS, GLOBAL_MODEL = "clients", "global model"
PERCENT = " (%)"
"""The end of the head of a further metric that is shown in percent."""
TOTALS = {MEAN: CLIENT_MEAN, GLOBAL: GLOBAL_ACCURACY, **{f"{GLOBAL} {shot}": shot for shot in SHOTS}}
"""The columns over all domains, and the metric of each."""


LAST = (ALL, VALIDATED, *SHOTS)
"""Columns of a run's table that come after its domains."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fedsim.report", description="Tables and pictures of runs.")
    parser.add_argument("folders", nargs="+", help="run directories, or folders with run directories below")
    parser.add_argument("--out", help="where table and pictures go (default: the first folder)")
    options = parser.parse_args(arguments)
    never_fail_to_print()
    try:
        folders = [Path(expanded("the folder", each)) for each in options.folders]
        _compare(folders, folders[0] if options.out is None else Path(expanded("--out", options.out)))
    except FedsimError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _compare(folders: list[Path], out: Path) -> None:
    """Compare all runs in the folders.

    Raises:
        UserError: If there is none or one is damaged.
        FileError: If a file cannot be written.
    """
    write_comparison(group_by_settings(find_runs(folders)), out)


def write_comparison(groups: dict[str, list[Result]], out: Path) -> None:
    """Print the accuracies of runs by label, and write them with their pictures into ``out``.

    Raises:
        FileError: If a file cannot be written.
    """
    table = accuracy_table(groups)
    print_whole(render(table))
    for line in sentences({label: accuracy_by_seed(runs) for label, runs in groups.items()}):
        print(line)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "comparison.md", lambda path: path.write_text(to_markdown(table), encoding="utf-8"))
    write_atomically(out / "comparison.csv", lambda path: table.to_csv(path, index=False, encoding="utf-8"))
    domains = table[[name == MEAN or not _is_total(name) for name in table["domain"]]]
    plot_comparison_by_domain(domains, out / "comparison_domains.png")
    plot_comparison_over_rounds(learning_curves(groups), out / "comparison_rounds.png")
    written = ["comparison.md", "comparison.csv", "comparison_domains.png", "comparison_rounds.png"]
    diagnosed = diagnostics_by_label(groups)
    if diagnosed:
        written.append("comparison_diagnostics.png")
        plot_diagnostics_comparison(diagnosed, out / written[-1])
    print(f"written to {out}: {', '.join(written)}")


def accuracy_by_seed(runs: list[Result]) -> dict[int, float]:
    """Return by seed the mean client accuracy after the last round (0 to 1) of the runs of one label."""
    return {run.summary["seed"]: run.summary["final"][CLIENT_MEAN] for run in runs}


def group_by_settings(runs: list[Result], besides: Sequence[str] = ()) -> dict[str, list[Result]]:
    """Group runs by label: the strategy, and the settings in which runs of that strategy differ, other than the seed.

    The settings named by ``besides`` are not compared either, and then neither is how many rounds the runs have done.
    """
    by_strategy: dict[str, list[tuple[Result, dict[str, object]]]] = {}
    for run in runs:
        flat = {key: value for key, value in compared_settings(run).items() if key not in besides}
        with reading(run.run_dir / "config.yaml"):
            by_strategy.setdefault(str(flat["strategy.name"]), []).append((run, flat))
    groups: dict[str, list[Result]] = {}
    for strategy, members in by_strategy.items():
        settings = [flat for _, flat in members]
        shown = [key for key in dict.fromkeys(key for flat in settings for key in flat) if _tells_apart(key, settings)]
        for run, flat in members:
            extra = [f"{key.removesuffix('.name')}={_written(flat[key])}" for key in shown if key in flat]
            reached, asked = run.summary["final"]["round"], run.summary["rounds"]
            if reached < asked and not besides:
                extra.append(f"(stopped in round {reached} of {asked})")
            groups.setdefault(" ".join([strategy, *extra]), []).append(run)
    return groups


def accuracy_table(groups: dict[str, list[Result]]) -> pd.DataFrame:
    """Return a table of client accuracies after the last round, in percent: label, domain, mean, std, number of runs.

    In the column ``domain``, ``mean`` is the unweighted mean over all clients, ``global`` the accuracy of the global
    model on the union of the domains, ``global many`` that on classes with many training images. For a domain that was
    left out, the accuracy is that of the global model. Each further predictor adds rows such as ``mean, adapted`` and
    ``global few, realigned``, and each further metric rows such as ``mean, ece (%)``, ``global, ece (%)`` and ``mean,
    adapted, ece (%)``; metrics without the percent sign are not in percent.
    """
    rows = []
    for label, runs in groups.items():
        columns: dict[str, list[float]] = {}
        for run in runs:
            for column, value in _final_row(run.summary["final"]).items():
                columns.setdefault(column, []).append(value)
        for domain, values in columns.items():
            series = (100 if _in_percent(domain) else 1) * pd.Series(values)
            rows.append((label, domain, series.mean(), series.std(), len(series)))
    return pd.DataFrame(rows, columns=["label", "domain", "mean", "std", "runs"])


def _final_row(final: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of one run for each domain and over all of them, by their heads in the table."""
    row = {title(domain): accuracy for domain, accuracy in final["client_domain_accuracy"].items()}
    row |= {left_out(domain): accuracy for domain, accuracy in final.get("unseen_accuracy", {}).items()}
    for total, metric in TOTALS.items():  # titles of domains differ from these
        for name in predictors_in(final):
            if joined(name, metric) in final:
                row[_title(total, name)] = final[joined(name, metric)]
    for metric in FURTHER_METRICS:
        for total, column in ((MEAN, client_mean_of(metric)), (GLOBAL, global_of(metric))):
            for name in predictors_in(final):
                if joined(name, column) in final:
                    row[_title(total, name, metric)] = final[joined(name, column)]
    return row


def learning_curves(groups: dict[str, list[Result]]) -> dict[str, pd.DataFrame]:
    """Return the mean client accuracy (0 to 1) of each label as a frame of rounds × runs."""
    return {
        label: pd.DataFrame(
            {
                number: run.rounds.dropna(subset="client_accuracy_mean").set_index("round")["client_accuracy_mean"]
                for number, run in enumerate(runs)
            }
        )
        for label, runs in groups.items()
    }


def diagnostics_by_label(groups: dict[str, list[Result]]) -> dict[str, pd.DataFrame]:
    """Return the mean over runs of every number in ``diagnostics.csv``; labels whose runs have none are left out."""
    found: dict[str, pd.DataFrame] = {}
    for label, runs in groups.items():
        frames = [run.diagnostics for run in runs if run.diagnostics is not None]
        if frames:
            rows = pd.concat(frames).groupby(["round", "layer", "metric"], sort=False)["value"]
            found[label] = rows.mean().reset_index()
    return found


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as texts ``mean ± std``, labels × domains; without a deviation where there is one run.

    Where only some of a label's runs have a domain, the text has their number.
    """
    runs = table.groupby("label")["runs"].transform("max")
    of_all = [
        "" if some == most else f" ({some} of {most} runs)" for some, most in zip(table["runs"], runs, strict=True)
    ]
    text = table.assign(
        cell=[
            (f"{row.mean:.{places}f}" if row.runs == 1 else f"{row.mean:.{places}f} ± {row.std:.{places}f}") + part
            for row, places, part in zip(table.itertuples(), map(_places, table["domain"]), of_all, strict=True)
        ]
    )
    wide = text.pivot(index="label", columns="domain", values="cell")
    names = sorted(table["domain"].unique(), key=_is_total)  # totals last
    return wide.reindex(index=table["label"].unique(), columns=names).fillna("")


def render(table: pd.DataFrame) -> Table:
    """Return the table for a terminal: a row for each domain, a column for each label."""
    runs = table["runs"].max()
    head = f"client accuracy after the last round (%), {runs} run{'s' if runs > 1 else ''} each"
    shown = Table(title=head, box=SIMPLE_HEAD, pad_edge=False)
    wide = cells(table)
    shown.add_column("")
    for label in wide.index:
        shown.add_column(str(label), justify="right", min_width=max(map(len, wide.loc[label])))
    for domain in wide.columns:
        if domain == MEAN:
            shown.add_section()
        shown.add_row(domain, *wide[domain])
    return shown


def to_markdown(table: pd.DataFrame) -> str:
    wide = cells(table)
    lines = ["| | " + " | ".join(map(_plain, wide.columns)) + " |", "|---|" + "---:|" * len(wide.columns)]
    lines += [f"| {_plain(str(label))} | " + " | ".join(row) + " |" for label, row in wide.iterrows()]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return Markdown that shows the text unchanged: borders, links, tags, formulas and emphasis are escaped."""
    return re.sub(r"[\\|*`<&$~]|(?<=\])\(|\b_\B|\B_", lambda found: f"\\{found[0]}", text)


def run_table(result: Result) -> Table:
    """Return the table that is printed at the end of a run: the cells of ``run_cells``."""
    found = run_cells(result)
    shown = Table(title=f"{result.summary['strategy']}: accuracy (%)", box=SIMPLE_HEAD)
    shown.add_column("", no_wrap=True)
    for name in found.columns:
        shown.add_column(name, justify="right", no_wrap=True)
    for number, (row, values) in enumerate(zip(found.index, found.to_numpy(), strict=True)):
        if number and (row == GLOBAL_MODEL or (not _is_metric(found.index[number - 1]) and _is_metric(row))):
            shown.add_section()
        shown.add_row(row, *values)
    return shown


def run_cells(result: Result) -> pd.DataFrame:
    """Return each domain's client accuracy and that of the global model, in percent as text; empty where there is none.

    A domain may have no clients of its own (all of them mixed, or left out), and mixed clients have no domain. Further
    metrics have rows of their own, such as ``clients, ece (%)``; without the percent sign they are not in percent.
    """
    final, best = result.summary["final"], result.summary["best"]
    chosen = " by validation" if VALIDATION in best else ""
    predictors = predictors_in(final)
    lines = {CLIENTS: _of_clients(final), f"clients, best round{chosen} {best['round']}": _of_clients(best)}
    lines |= {
        _title(CLIENTS, name): _of_clients(final, name) for name in predictors[1:] if joined(name, CLIENT_MEAN) in final
    }
    lines |= {
        _title(GLOBAL_MODEL, name): _of_global_model(final, name)
        for name in predictors
        if joined(name, GLOBAL_ACCURACY) in final
    }
    for metric in FURTHER_METRICS:
        for what, line_of in ((CLIENTS, _metric_of_clients), (GLOBAL_MODEL, _metric_of_global_model)):
            found = {_title(what, name, metric): line_of(final, name, metric) for name in predictors}
            lines |= {row: line for row, line in found.items() if line}
    columns = list(dict.fromkeys(name for line in lines.values() for name in line))
    columns.sort(key=(*(name for name in columns if name not in LAST), *LAST).index)
    rows = [[_shown(line[name], row) if name in line else "" for name in columns] for row, line in lines.items()]
    return pd.DataFrame(rows, index=list(lines), columns=columns)


def _of_clients(row: Mapping[str, Any], predictor: str = PLAIN) -> dict[str, float]:
    """Return the row of the clients' accuracies: by domain, over all domains, and on validation images."""
    validation = {VALIDATED: row[VALIDATION]} if predictor == PLAIN and VALIDATION in row else {}
    return {
        **_titled(row[joined(predictor, "client_domain_accuracy")]),
        ALL: row[joined(predictor, CLIENT_MEAN)],
        **validation,
    }


def _of_global_model(row: Mapping[str, Any], predictor: str) -> dict[str, float]:
    """Return the row of the global model's accuracies, with domains that were left out and the parts of a long tail."""
    unseen = row.get(joined(predictor, "unseen_accuracy"), {})
    return {
        **_titled(row[joined(predictor, "domain_accuracy")]),
        **{left_out(domain): accuracy for domain, accuracy in unseen.items()},
        ALL: row[joined(predictor, GLOBAL_ACCURACY)],
        **{shot: row[joined(predictor, shot)] for shot in SHOTS if joined(predictor, shot) in row},
    }


def _metric_of_clients(row: Mapping[str, Any], predictor: str, metric: str) -> dict[str, float]:
    """Return the row of a further metric of the clients; empty where it was not measured."""
    total = joined(predictor, client_mean_of(metric))
    if total not in row:
        return {}
    validation = f"validation_{metric}_mean"
    return {
        **_titled(row.get(joined(predictor, f"client_domain_{metric}"), {})),
        ALL: row[total],
        **({VALIDATED: row[validation]} if predictor == PLAIN and validation in row else {}),
    }


def _metric_of_global_model(row: Mapping[str, Any], predictor: str, metric: str) -> dict[str, float]:
    """Return the row of a further metric of the global model; empty where it was not measured."""
    total = joined(predictor, global_of(metric))
    if total not in row:
        return {}
    unseen = row.get(joined(predictor, f"unseen_{metric}"), {})
    return {
        **_titled(row.get(joined(predictor, f"domain_{metric}"), {})),
        **{left_out(domain): value for domain, value in unseen.items()},
        ALL: row[total],
    }


def _title(what: str, predictor: str, metric: str = "") -> str:
    """Return the head of a row or column: ``clients, adapted``, and with a metric ``clients, adapted, ece (%)``."""
    parts = [what] if predictor == PLAIN else [what, predictor.replace("_", " ")]
    if metric:
        parts.append(metric.replace("_", " ") + (PERCENT if FURTHER_METRICS[metric].percent else ""))
    return ", ".join(parts)


def _is_metric(head: str) -> bool:
    """Return whether a head made by ``_title`` is that of a further metric."""
    ends = tuple(_title("", PLAIN, metric) for metric in FURTHER_METRICS)
    return head.partition(",")[0] in (*TOTALS, CLIENTS, GLOBAL_MODEL) and head.endswith(ends)


def _in_percent(head: str) -> bool:
    """Return whether the numbers under a head are in percent, as every accuracy is."""
    return not _is_metric(head) or head.endswith(PERCENT)


def _places(head: str) -> int:
    """Return how many decimal places are shown under a head."""
    return 1 if _in_percent(head) else 3


def _shown(value: float, head: str) -> str:
    return f"{100 * value:.1f}" if _in_percent(head) else f"{value:.3f}"


def _titled(by_domain: Mapping[str, float]) -> dict[str, float]:
    return {title(domain): accuracy for domain, accuracy in by_domain.items()}


def _is_total(head: str) -> bool:
    """Return whether a head is that of a total over all domains."""
    return head.partition(",")[0] in TOTALS


def compared_settings(run: Result) -> dict[str, object]:
    """Return the settings that change what is measured, by their names on the command line."""
    flat: dict[str, Any] = {}
    for key, value in load(run.run_dir).items():
        if key in NOT_COMPARED:
            continue
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": each for inner, each in value.items()}
        else:
            flat[key] = value
    if SPLIT_STEPS in flat:  # the split's name in the form of the command line
        flat["split.name"] = f"[{','.join(map(str, flat.pop(SPLIT_STEPS)))}]"
    groups = grouping({key: flat.get(f"norm.{key}") for key in ("name", *GROUP_OPTIONS)})
    if groups is not None:  # the name of the norm includes its groups
        flat["norm.name"] = f"{flat['norm.name']} norm.{groups}"
        for key in GROUP_OPTIONS:
            flat.pop(f"norm.{key}", None)
    return flat


def _tells_apart(key: str, settings: list[dict[str, object]]) -> bool:
    """Return whether the runs differ in ``key`` even where the name of the group it belongs to is the same."""
    value_by_name: dict[object, set[str]] = {}
    name = f"{key.partition('.')[0]}.name"
    for flat in settings:
        value_by_name.setdefault(flat.get(name) if key != name else None, set()).add(_comparable(flat.get(key)))
    return any(len(values) > 1 for values in value_by_name.values())


def _written(value: object) -> str:
    return "null" if value is None else str(value)


def _comparable(value: object) -> str:
    """Return a text by which settings are compared: 1 and 1.0 are the same setting, True is another."""
    return str(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
