"""Names that come from outside, of domains and classes: a folder may be called anything.

Inside, a name is only ever compared with names. Before it is shown it passes through here once: what no terminal, table
or picture can show is written out, and a name that a table has for a column of its own is put into quotes.
"""

import unicodedata
from collections.abc import Collection, Sequence

from datasets.shots import SHOTS
from fedsim.core.errors import UserError

MEAN, GLOBAL, ALL, VALIDATION = "mean", "global", "all", "validation"
COLUMNS = frozenset({MEAN, GLOBAL, ALL, VALIDATION, *SHOTS, *(f"{GLOBAL} {shot}" for shot in SHOTS)})
"""What tables of accuracies call their columns that are no domain's, before a comma and a predictor's name."""
LEFT_OUT = " (left out)"
JOINING = frozenset("\u200c\u200d")
"""Invisible, and part of words and of composed emoji."""


def readable(name: str) -> str:
    r"""Return the name as it can be shown in one line: what is invisible is written as Python does, ``\n`` or ``\x00``.

    These are line breaks, other control characters, marks that turn the direction of what follows, and bytes that are
    no UTF-8, which Python hands over as lone surrogates. A name that begins or ends with a space, or has nothing to be
    seen, is put into quotes. Letters are composed (NFC), as a keyboard gives them and macOS does not store them. A
    readable name stays as it is.
    """
    composed = unicodedata.normalize("NFC", name)
    text = "".join(_written_out(character) if _hidden(character) else character for character in composed)
    seen = any(unicodedata.category(character)[0] not in "CZ" for character in text)
    return text if seen and text == text.strip() else f"'{text}'"


def all_readable(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the readable names.

    Raises:
        UserError: two of them are the same, or read alike.
    """
    shown = tuple(map(readable, names))
    twice = next((name for name in shown if shown.count(name) > 1), None) if len(set(shown)) < len(shown) else None
    if twice is not None:
        raise UserError(f"two {what} are called {twice}: give each a name of its own.")
    return shown


def find_name(given: object, known: Collection[str]) -> str | None:
    """Return the one of the known names that a user means, or None.

    It is the name itself, or the one that reads the same. A whole number is a name that the command line has read as
    one.
    """
    text = str(given)
    if isinstance(given, bool | float) or given is None:  # 1e5, true and null have lost how they were written
        return None
    if text in known:
        return text
    alike = [name for name in known if readable(name) == readable(text)]
    return alike[0] if len(alike) == 1 else None


def quoting_hint(given: object) -> str:
    """Return what to say of a name that is no text any more, as a half-sentence, or nothing."""
    if isinstance(given, str):
        return ""
    return ', and put a name that reads as a number, null, true or false into quotes, as in \'["007","null"]\''


def title(domain: str) -> str:
    """Return the head of a domain's column: its name, in quotes where a column that is no domain's is called so."""
    taken = domain.partition(",")[0] in COLUMNS or domain.endswith(LEFT_OUT) or domain.startswith('"')
    return f'"{domain}"' if taken else domain


def left_out(domain: str) -> str:
    """Return the head of the column of a domain that nobody trained on."""
    return f"{title(domain)}{LEFT_OUT}"


def _hidden(character: str) -> bool:
    category = unicodedata.category(character)
    tag = "\U000e0020" <= character <= "\U000e007f"  # of flags such as Scotland's
    return category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and character not in JOINING and not tag)


def _written_out(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
