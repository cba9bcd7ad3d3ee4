"""Names of domains and classes, which come from outside: a folder may have any name.

Internally, a name is only compared with other names. Before a name is shown, it passes through here once: characters
that no terminal, table or picture can show are escaped, and a name that a table uses for a column of its own is quoted.
"""

import unicodedata
from collections.abc import Collection, Sequence

from datasets.shots import SHOTS
from fedsim.core.errors import UserError

MEAN, GLOBAL, ALL, VALIDATION = "mean", "global", "all", "validation"
COLUMNS = frozenset({MEAN, GLOBAL, ALL, VALIDATION, *SHOTS, *(f"{GLOBAL} {shot}" for shot in SHOTS)})
"""Heads of those columns in tables of accuracies that belong to no domain, before a comma and a predictor's name."""
LEFT_OUT = " (left out)"
JOINING = frozenset("\u200c\u200d")
"""Invisible, and part of words and of composed emoji."""


def readable(name: str) -> str:
    r"""Return the name as it can be shown in one line: invisible characters are escaped, such as ``\n`` or ``\x00``.

    These are line breaks, other control characters, marks that change the direction of writing, and bytes that are not
    UTF-8, which Python represents as lone surrogates. A name that begins or ends with a space, or has no visible
    character, is put into quotes. Letters are composed (NFC), as keyboards produce them; macOS stores them decomposed.
    A readable name is returned unchanged.
    """
    composed = unicodedata.normalize("NFC", name)
    text = "".join(_written_out(character) if _hidden(character) else character for character in composed)
    seen = any(unicodedata.category(character)[0] not in "CZ" for character in text)
    return text if seen and text == text.strip() else f"'{text}'"


def all_readable(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the readable names.

    Raises:
        UserError: If two of them are the same, or become the same when made readable.
    """
    shown = tuple(map(readable, names))
    twice = next((name for name in shown if shown.count(name) > 1), None) if len(set(shown)) < len(shown) else None
    if twice is not None:
        raise UserError(f"two {what} are called {twice}: give each a name of its own.")
    return shown


def find_name(given: object, known: Collection[str]) -> str | None:
    """Return the known name that a user means, or ``None``.

    It is the name itself, or the only one with the same readable form. ``given`` may be a whole number, since the
    command line reads a name of digits as one.
    """
    text = str(given)
    if isinstance(given, bool | float) or given is None:  # how 1e5, true and null were written is not known
        return None
    if text in known:
        return text
    alike = [name for name in known if readable(name) == readable(text)]
    return alike[0] if len(alike) == 1 else None


def quoting_hint(given: object) -> str:
    """Return the end of an error sentence about a name that was not read as a text, or an empty text."""
    if isinstance(given, str):
        return ""
    return ', and put a name that reads as a number, null, true or false into quotes, as in \'["007","null"]\''


def title(domain: str) -> str:
    """Return the head of a domain's column: its name, in quotes where another column has that name."""
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
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
