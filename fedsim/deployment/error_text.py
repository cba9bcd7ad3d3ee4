"""An error of another machine as one line: its text is not trusted, since it could imitate lines of our log."""

import re

LONGEST = 300
_FLOWERS = re.compile(r"<class '([^'\n]*)'>:<'(.*?)(?:'>)?\s*", re.DOTALL)
"""The form in which Flower writes an exception of a ClientApp into ``Error.reason``."""
_SIMULATORS = "Exception ClientAppException occurred. Message: "
"""Precedes the exception's own message at the end of the long traceback that Flower's simulation sends."""


def one_line(reason: str | None) -> str:
    """Return the first line of the exception's message, with printable characters only, cut after ``LONGEST``.

    The class of the exception precedes it, except for exceptions of fedsim, whose messages are whole sentences.
    """
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
