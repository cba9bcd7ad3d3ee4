"""Runs that are one row of a comparison, and the label of that row: the settings by which it differs from others."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.config.composition import load
from fedsim.config.kinds import NOT_COMPARED
from fedsim.config.listing import paper_name
from fedsim.core.errors import UserError
from fedsim.core.files import reading
from fedsim.norms.factory import grouping
from fedsim.norms.groups import GROUP_OPTIONS
from fedsim.output.results import Result

SPLIT_STEPS = "split.steps"
UNSAID = ("norm.policy", "norm.affine", "norm.statistics", "norm.evaluation", "norm.freeze_after")
"""Settings of which null says nothing: as the strategy has it."""


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
            told = [key for key in shown if key in flat and not (flat[key] is None and key in UNSAID)]
            extra = [f"{key.removesuffix('.name')}={written(flat[key])}" for key in told]
            if not besides and (stopped := stopped_in(run)):
                extra.append(stopped)
            groups.setdefault(" ".join([strategy, *extra]), []).append(run)
    return groups


def stopped_in(run: Result) -> str:
    """Return ``(stopped in round 3 of 20)`` for a run that has not been evaluated in its last round, or nothing."""
    reached, asked = run.summary["final"]["round"], run.summary["rounds"]
    return f"(stopped in round {reached} of {asked})" if reached < asked else ""


def compared_settings(run: Result) -> dict[str, object]:
    """Return the settings of a run that change what is measured, by their names on the command line."""
    config = load(run.run_dir)
    with reading(run.run_dir / "config.yaml"):
        return flattened(config)


def flattened(config: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings of a configuration that change what is measured, by their names on the command line."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
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


def refuse_twins(runs: Sequence[Result], where: str) -> None:
    """Refuse runs of one row that have the same seed: they are no further evidence.

    Raises:
        UserError: If there are two; names them.
    """
    by_seed: dict[int, Result] = {}
    for run in runs:
        twin = by_seed.setdefault(run.summary["seed"], run)
        if twin is not run:
            raise UserError(f"{twin.run_dir} and {run.run_dir} are the same run ({where}): give one of them.")


def named_label(label: str) -> str:
    """Return the label of runs with the name that its method has in its paper."""
    strategy, space, rest = label.partition(" ")
    return f"{paper_name(strategy)}{space}{rest}"


def _tells_apart(key: str, settings: list[dict[str, object]]) -> bool:
    """Return whether the runs differ in ``key`` even where the name of the group it belongs to is the same."""
    value_by_name: dict[object, set[str]] = {}
    name = f"{key.partition('.')[0]}.name"
    for flat in settings:
        value_by_name.setdefault(flat.get(name) if key != name else None, set()).add(comparable(flat.get(key)))
    return any(len(values) > 1 for values in value_by_name.values())


def written(value: object) -> str:
    """Return a value in the form of the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def comparable(value: object) -> str:
    """Return a text by which settings are compared: 1 and 1.0 are the same setting, True is another."""
    return str(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
