"""The settings of a run that goes on: those of its run directory, but ``rounds`` may grow, and be ``quiet`` or not."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.config.composition import is_unused, load
from fedsim.config.kinds import OF_THE_CALL, OF_THE_RUN
from fedsim.config.paths import KEYS, expanded
from fedsim.core.errors import UserError
from fedsim.core.nested import flattened

MAY_CHANGE = ("resume", "rounds", "quiet")
"""The settings that may be given with ``resume=``."""
CHANGED_BY_HAND = (*MAY_CHANGE, *KEYS, *OF_THE_RUN, *OF_THE_CALL)
"""The settings that somebody may have changed in a run's ``config.yaml``, for another machine, since a checkpoint."""


def with_resumed(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the configuration, or, with ``resume``, that of the run directory, with more rounds if they are given.

    Raises:
        UserError: If the run directory holds none, if there are other settings beside ``resume`` and ``rounds``, or if
            the run cannot have these rounds.
    """
    if config.get("resume") is None:
        return config
    for text in overrides:
        if text.partition("=")[0] not in MAY_CHANGE:
            raise UserError(
                f"{text} cannot be given with resume=: a resumed run keeps its own settings, and only rounds= may grow."
            )
    resume = expanded("resume", config["resume"])
    if not resume:
        raise UserError("resume= is not possible: choose the directory of the run that is to go on.")
    begun = {**load(Path(resume)), "resume": resume, "quiet": config.get("quiet", False)}
    if any(text.startswith("rounds=") for text in overrides):
        return with_more_rounds(begun, config["rounds"])
    return begun


def with_more_rounds(begun: dict[str, Any], rounds: Any) -> dict[str, Any]:
    """Return the settings of a run with more rounds, so that those it has made keep their meaning.

    Two settings depend on the number of rounds. ``norm.policy=fixbn`` freezes the statistics after half of them: the
    freeze stays where it is, since statistics that have been frozen would change again behind a later one. The rate of
    ``lr_schedule=cosine`` falls to 0 behind the last round: this is refused, since the rounds that are made had the
    rates of the shorter cosine, and a rate that jumps up again is another schedule. Methods may have others
    (``refuse_other_rounds``).

    Raises:
        UserError: If the run cannot have these rounds.
    """
    before = begun["rounds"]
    if not isinstance(rounds, int) or rounds == before:
        return {**begun, "rounds": rounds}
    if rounds < before:
        raise UserError(
            f"rounds={rounds} is not possible with resume=: the run was begun for {before} rounds, and can only be "
            "given more."
        )
    if begun.get("lr_schedule") == "cosine":
        raise UserError(
            f"rounds={rounds} is not possible with resume= of a run with lr_schedule=cosine, whose learning rate has "
            f"fallen to 0 behind round {before}: leave rounds out, or start a new run."
        )
    norm: Mapping[str, Any] = begun["norm"]
    return {**begun, "rounds": rounds, "norm": {**norm, "freeze_after": _freeze_after(norm, before)}}


def kept_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by name, the settings that a run has from its first round to its last, for its checkpoints."""
    norm = {**config["norm"], "freeze_after": _freeze_after(config["norm"], config["rounds"])}
    return {
        key: value
        for key, value in flattened({**config, "norm": norm}).items()
        if key not in CHANGED_BY_HAND and key.partition(".")[0] not in CHANGED_BY_HAND
    }


def refuse_changes(run_dir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other ``kept_settings`` than a checkpoint was made with.

    One that only one of them has is of another version of fedsim, as is one that had no effect.

    Raises:
        UserError: If there is another one; names the first.
    """
    for key, value in now.items():
        is_now, was = (json.dumps(each).strip('"') for each in (value, before.get(key, value)))
        if is_now != was and not is_unused(key, before):
            raise UserError(
                f"{run_dir / 'config.yaml'} has {key}={is_now}, and its checkpoint was made with {key}={was}: put back "
                "the file that the run has written, or start a new run."
            )


def _freeze_after(norm: Mapping[str, Any], rounds: int) -> int | None:
    from fedsim.norms.policy import NormPolicy  # loads torch

    return NormPolicy.of(norm, rounds).freeze_after


def refuse_other_rounds(run_dir: Path, rounds: int, option: str) -> None:
    """Refuse more rounds than the run was begun for, where an option of its method depends on their number.

    Raises:
        UserError: If there is such an option, and the rounds are others.
    """
    before = load(run_dir)["rounds"]
    if option and rounds != before:
        raise UserError(
            f"rounds={rounds} is not possible with resume= of a run with {option}, which depends on the number of "
            f"rounds, {before}: leave rounds out, or start a new run."
        )


def kept_freeze(run_dir: Path, norm: Mapping[str, Any]) -> str:
    """Return in words that a freeze stays where the run directory's fewer rounds had it; empty if none does."""
    frozen = norm.get("freeze_after")
    if frozen is None or load(run_dir)["norm"].get("freeze_after") is not None:
        return ""
    return f"norm.freeze_after={frozen} stays: half of the rounds that this run was begun for"
