"""What went wrong on another machine, as one line: its words are its own, and could look like lines of our log."""

import re

LONGEST = 300
_FLOWERS = re.compile(r"<class '([^'\n]*)'>:<'(.*?)(?:'>)?\s*", re.DOTALL)
"""How Flower writes an exception of a ClientApp into ``Error.reason``."""
_SIMULATORS = "Exception ClientAppException occurred. Message: "
"""Stands before the exception's own words at the end of the long traceback that Flower's simulation sends."""


def one_line(reason: str | None) -> str:
    """The exception's own words, and its kind unless it is one of ours, which are sentences; what prints, cut off."""
    text, kind = reason or "", ""
    if wrapped := _FLOWERS.fullmatch(text):
        kind, text = wrapped.groups()
    if _SIMULATORS in text:
        kind, text = "", text.rpartition(_SIMULATORS)[2]
    first = next((line for line in text.splitlines() if line.strip()), "")
    if kind and not kind.startswith("fedsim."):
        first = f"{kind.rpartition('.')[2]}: {first}" if first else kind
    clean = " ".join("".join(each if each.isprintable() else " " for each in first).split())
    return (clean if len(clean) <= LONGEST else f"{clean[: LONGEST - 1]}…") or "no reason given"
