"""Adds to ``key=value`` words, as users write them, the quotes that Hydra's grammar requires.

In that grammar a value without quotes has no ``~``, ``#``, ``&`` or letter beyond ASCII, an ``=`` or a bracket means
something else, and ``1_0`` is a number. Words that Hydra can read are left unchanged, except paths: these are texts.
"""

import re
import shlex
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from fedsim.config.paths import HYDRAS, KEYS, expanded
from fedsim.core.errors import UserError

WORD = re.compile(r"([+~]{0,2}[\w.@/$-]+)=(.*)", re.DOTALL)
TOKEN = re.compile(
    r"""
    (?P<quoted> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
  | (?P<between> [\[\]{}(),:=] )
  | (?P<plain> \$\{[^}]*\} | \\. | . )
    """,
    re.VERBOSE | re.DOTALL,
)
FOREIGN = re.compile(r"[^\w/\\+.$%*@?|:{}\[\](),=\s-]|[^\x00-\x7f]")
"""The characters that a value without quotes must not contain."""

HYDRAS_OWN = re.compile(r"^['\"]|\$\{|\\")
"""The signs that a path was written for Hydra: quotes around it, an interpolation, or backslashes."""


def readable(word: str) -> str:
    """Return the word in a form that Hydra can read, or unchanged where quoting it would be a guess.

    Raises:
        UserError: If a path is in the home folder of a user who does not exist.
    """
    match = WORD.fullmatch(word)
    if match is None:
        return word
    key, value = match.groups()
    if key.lstrip("+~") in KEYS:
        return f"{key}={_path(key, value)}"
    if _parsed(word) is not None:
        return word
    inside = f"{key}={''.join(_quoted_inside(value))}"
    if _parsed(inside) is not None:
        return inside
    return word if set(value) & set(",[]{}'\"") else f"{key}={_quoted(value)}"


def parse(word: str) -> Override:
    """Return Hydra's reading of a word that has passed ``readable``.

    Raises:
        UserError: If Hydra cannot read it.
    """
    override = _parsed(word)
    if override is None or not override.key_or_group:
        quoting = ""
        if found := WORD.fullmatch(word):
            quoting = f", and a value with brackets, commas or quotes as '{found[1]}=\"...\"'"
        spaces = ", without spaces" if re.fullmatch(r"=|[\w.]+", word) else ""
        raise UserError(f"{word!r} cannot be read: write key=value{spaces}{quoting}.")
    return override


def path_word(key: str, path: str) -> str:
    """Return the word for Hydra that sets this path, whatever characters it has."""
    return f"{key}={_quoted(path)}"


def word_for(key: str, path: str) -> str:
    """Return the word of the command line that sets this path, quoted for a shell."""
    word = f"{key}={path}"
    override = _parsed(readable(word))
    if override is None or override.value() != path:
        word = f"{key}={_quoted(path)}"
    return shlex.quote(word)


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _path(key: str, value: str) -> str:
    """Return a path as a quoted text, unless Hydra reads it as quoted, null, an interpolation or values of a sweep."""
    override = _parsed(f"{key}={value}")
    if override is None and "," in value:
        inside = "".join(_quoted_inside(value))
        override = _parsed(f"{key}={inside}")
        value = inside if override is not None and override.is_sweep_override() else value
    if override is not None and override.is_sweep_override():
        return value
    text: Any = value.strip()
    if override is not None and (not text or override.value() is None or HYDRAS_OWN.search(text)):
        text = override.value()
    if key in HYDRAS and isinstance(text, str):  # Hydra itself makes these folders
        text = expanded(key, text)
    return _quoted(text) if isinstance(text, str) and text else value


def _quoted_inside(value: str) -> Iterator[str]:
    """Yield the pieces of a value; a piece between brackets and commas is put into quotes where it needs them."""
    piece, depth = "", ""
    for token in TOKEN.finditer(value):
        kind, text = token.lastgroup, token[0]
        own = (text == "=" and "(" not in depth) or (text == ":" and "{" not in depth)
        if kind == "plain" or (kind == "between" and own):
            piece += text
            continue
        yield _quoted_piece(piece)
        yield text
        piece = ""
        if kind == "between":
            depth = depth + text if text in "[{(" else depth[:-1] if text in "]})" else depth
    yield _quoted_piece(piece)


def _quoted_piece(piece: str) -> str:
    return _quoted(piece.strip()) if FOREIGN.search(piece) or "=" in piece else piece


def _quoted(text: str) -> str:
    quoted: str = QuotedString(text, Quote.double).with_quotes()
    return quoted
