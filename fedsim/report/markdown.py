"""Texts in Markdown tables."""

import re


def plain(text: str) -> str:
    """Return Markdown that shows the text unchanged: borders, links, tags, formulas and emphasis are escaped."""
    return re.sub(r"[\\|*`<&$~]|(?<=\])\(|\b_\B|\B_", lambda found: f"\\{found[0]}", text)
